"""What the whole demo came to: the numbers behind the last line, the JSON and the exit status."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import published
from .column import Column
from .victims import Victims

# Other work below this share of the cores isn't worth a word; measuring itself takes a few per cent.
BUSY = 0.15


class Summary(NamedTuple):
    """All columns, and what they ran."""

    configs: Sequence[Mapping[str, Any]]
    names: Sequence[str]
    victims: Victims
    seed: int
    shuffled: bool
    memory_bytes: int
    jobs: int
    figures: Mapping[tuple[str, str], float]
    columns: Sequence[Column]
    # The column without faults and without CloveOS that the digests are compared with.
    reference: Column | None
    ours: Column | None
    bystanders: Sequence[str] = ()
    disturbed: int = 0

    @property
    def scored(self) -> Mapping[int, Mapping[str, Any]]:
        """The results that are shown: CloveOS's, or where they are missing the unisolated run's."""
        found: dict[int, Mapping[str, Any]] = dict(self.reference.results) if self.reference else {}
        found.update(self.ours.results if self.ours else {})
        return found

    def comparison(self) -> published.Comparison:
        """With the published figures."""
        return published.compare(self.configs, self.scored, self.figures)

    def equal_digests(self) -> int | None:
        """How many of CloveOS's predictions are, bit for bit, those of the unisolated run."""
        if self.reference is None or self.ours is None:
            return None
        expected = self.reference.digests()
        return sum(1 for position, digest in self.ours.digests().items() if expected.get(position) == digest)

    def retried(self) -> int:
        """Deaths after which the experiment ended well nevertheless."""
        if self.ours is None:
            return 0
        return sum(1 for death in self.ours.certificates if death["position"] in self.ours.results)

    def faults_that_hit(self) -> list[str]:
        """Which of the three victims did die, as they were meant to."""
        dead = {death["position"] for death in self.ours.certificates} if self.ours else set()
        return [kind for kind, position in self.victims._asdict().items() if position in dead]

    def noise(self) -> str | None:
        """A caution, if other work on the machine made the wall times longer than they need be."""
        shares = [column.others_use for column in self.columns if column.wall_s]
        if not shares or max(shares) < BUSY:
            return None
        low, high = min(shares), max(shares)
        return (
            f"The machine was busy with other work ({low:.0%} to {high:.0%} of its cores): "
            "compare CPU seconds; wall times would be shorter, and MemAvailable tells of the others too."
        )

    def median_auc(self) -> float | None:
        """Over all results that have one."""
        found = [float(one["auc"]) for one in self.scored.values() if one.get("auc") is not None]
        return statistics.median(found) if found else None

    def passed(self) -> bool:
        """Every fault hit, every experiment done, nobody disturbed, each digest equal where there is another."""
        if self.ours is None or self.ours.error or self.ours.completed != self.ours.total or self.disturbed:
            return False
        if len(self.faults_that_hit()) != len(self.victims):
            return False
        equal = self.equal_digests()
        return equal is None or equal == self.ours.total

    def last_line(self) -> str:
        """The demo in one line."""
        said = []
        if self.ours is not None:
            deaths = len(self.ours.certificates)
            hit = self.faults_that_hit()
            injected = f"{len(hit)} faults injected ({', '.join(hit)})" if hit else "no faults injected"
            missed = [kind for kind in self.victims._fields if kind not in hit]
            if missed:
                injected += f", {' and '.join(missed).upper()} MISSED"
            said.append(
                f"{self.ours.completed} of {self.ours.total} done, {injected}: "
                f"{deaths} deaths, {self.retried()} retried"
            )
        if self.shuffled:
            auc = self.median_auc()
            said.append(
                f"labels shuffled: median AUC {'unknown' if auc is None else format(auc, '.2f')}, where 0.5 is chance"
            )
        else:
            scores = self.comparison()
            if scores.svm_known:
                said.append(f"{scores.svm_equal}/{scores.svm_known} SVM equal published to 3 decimals")
            if scores.known:
                said.append(f"{scores.within}/{scores.known} within 5 %")
        equal = self.equal_digests()
        if equal is None:
            said.append("prediction digests: nothing to compare with")
        else:
            said.append(f"prediction digests equal to the unisolated run: {equal}/{len(self.configs)}")
        return "; ".join(said)

    def as_json(self) -> dict[str, Any]:
        """One object, for machines."""
        scores = self.comparison()
        return {
            "id": "drug-discovery",
            "passed": self.passed(),
            "summary": self.last_line(),
            "seed": self.seed,
            "jobs": self.jobs,
            "memory_bytes": self.memory_bytes,
            "shuffled_labels": self.shuffled,
            "victims": {kind: self.names[position] for kind, position in self.victims._asdict().items()},
            "columns": [
                {
                    "name": column.name,
                    "completed": column.completed,
                    "total": column.total,
                    "wall_s": round(column.wall_s, 3),
                    "cpu_s": round(column.cpu_s, 3),
                    "cpu_use": round(column.cpu_use, 4),
                    "others_cpu_use": round(column.others_use, 4),
                    "peak_memory_bytes": column.peak_bytes,
                    "memory_available_fall_bytes": column.available_fall_bytes,
                    "what_happened": column.what_happened,
                    "error": column.error,
                    "experiment_seconds": {
                        self.names[position]: result.get("seconds") for position, result in column.results.items()
                    },
                }
                for column in self.columns
            ],
            "svm_equal_published": scores.svm_equal,
            "svm_published": scores.svm_known,
            "within_5_percent": scores.within,
            "published": scores.known,
            "equal_digests": self.equal_digests(),
            "bystanders": list(self.bystanders),
            "bystanders_disturbed": self.disturbed,
            "certificates": list(self.ours.certificates) if self.ours else [],
            "experiments": [
                {
                    "name": name,
                    **{key: self.configs[position][key] for key in ("target", "model")},
                    "fault": self.victims.fault_at(position),
                    "published_rmse": self.figures.get(
                        (self.configs[position]["target"], self.configs[position]["model"])
                    ),
                    **self.scored.get(position, {}),
                }
                for position, name in enumerate(self.names)
            ],
        }
