"""What a benchmark found: figures with their spread, rows that set them against a bound."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, Optional


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number for each round; the median stands for them."""

    rounds: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """From one value for each round."""
        if not values:
            raise ValueError("a figure needs at least one round")
        return cls(tuple(float(v) for v in values))

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def least(self) -> float:
        return min(self.rounds)

    @property
    def most(self) -> float:
        return max(self.rounds)

    def to_json(self) -> dict[str, Any]:
        """Median, spread, and what they were made from."""
        return {"median": self.median, "min": self.least, "max": self.most, "rounds": list(self.rounds)}


@dataclasses.dataclass(frozen=True)
class Bound:
    """What has to be reached: `<=`, `>=` or `==` a number."""

    op: str
    limit: float

    def holds(self, value: float) -> bool:
        """Whether the value is within it."""
        return {"<=": value <= self.limit, ">=": value >= self.limit, "==": value == self.limit}[self.op]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: ours, the peer's, their ratio, and the bounds on `ours` or on the `ratio`."""

    what: str
    unit: str
    ours: Optional[Figure] = None
    peer: Optional[Figure] = None
    #: Who that is, when there is one.
    peer_name: str = ""
    must: Optional[Bound] = None
    aim: Optional[Bound] = None
    #: What the bounds are about: `ours` or `ratio`.
    judged: str = "ours"
    note: str = ""

    @property
    def ratio(self) -> Optional[float]:
        """Ours by the peer's, of the medians."""
        if self.ours is None or self.peer is None or self.peer.median == 0:
            return None
        return self.ours.median / self.peer.median

    @property
    def ratio_spread(self) -> Optional[tuple[float, float]]:
        """The least and the most of the ratios within one round, when both sides have the same rounds."""
        if self.ours is None or self.peer is None or len(self.ours.rounds) != len(self.peer.rounds):
            return None
        pairs = [o / p for o, p in zip(self.ours.rounds, self.peer.rounds, strict=True) if p]
        return (min(pairs), max(pairs)) if pairs else None

    def _verdict(self, bound: Optional[Bound]) -> Optional[bool]:
        if bound is None:
            return None
        value = self.ratio if self.judged == "ratio" else self.ours.median if self.ours else None
        # What couldn't be measured isn't reached.
        return False if value is None else bound.holds(value)

    @property
    def reached(self) -> Optional[bool]:
        """Whether the bound that must be reached is; None for a row that is only told."""
        return self._verdict(self.must)

    @property
    def reached_aim(self) -> Optional[bool]:
        """The same of the aim."""
        return self._verdict(self.aim)

    def to_json(self) -> dict[str, Any]:
        """Everything, the verdicts included."""
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": self.ours.to_json() if self.ours else None,
            "peer": self.peer.to_json() if self.peer else None,
            "peer_name": self.peer_name,
            "ratio": self.ratio,
            "ratio_spread": self.ratio_spread,
            "judged": self.judged,
            "must": dataclasses.asdict(self.must) if self.must else None,
            "aim": dataclasses.asdict(self.aim) if self.aim else None,
            "reached": self.reached,
            "reached_aim": self.reached_aim,
            "note": self.note,
        }


def at_most(limit: float) -> Bound:
    return Bound("<=", limit)


def at_least(limit: float) -> Bound:
    return Bound(">=", limit)


def exactly(limit: float) -> Bound:
    return Bound("==", limit)


def percentile(values: Sequence[float], percent: float) -> float:
    """By nearest rank: the least value that so many percent of all don't exceed."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    rank = -int(-len(ordered) * percent // 100)
    return float(ordered[min(len(ordered), max(1, rank)) - 1])
