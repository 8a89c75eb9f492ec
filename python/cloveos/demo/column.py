"""What one way of running the experiments came to: one column of the comparison."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .measure import Sample


@dataclass
class Attempt:
    """One process working at one experiment; times are seconds since the column began."""

    position: int
    number: int
    started_s: float
    ended_s: float
    # "done", or what ended it: "segfault", "oom", "kill", "memory error", "pool broken", ...
    end: str
    lane: int = 0


@dataclass
class Column:
    """Measured as a whole: interpreter start, imports and loading of data are in it."""

    name: str
    total: int
    cores: int
    completed: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    # What the whole machine spent meanwhile, this column included.
    machine_cpu_s: float = 0.0
    peak_bytes: int = 0
    available_fall_bytes: int = 0
    what_happened: str = ""
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    certificates: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    @property
    def cpu_use(self) -> float:
        """The share of all cores that were busy for this column, from 0 to 1."""
        return self.cpu_s / (self.wall_s * self.cores) if self.wall_s > 0 else 0.0

    @property
    def others_use(self) -> float:
        """The share of all cores that was taken by work that isn't ours."""
        whole = self.wall_s * self.cores
        return min(1.0, max(0.0, (self.machine_cpu_s - self.cpu_s) / whole)) if whole > 0 else 0.0

    def digests(self) -> dict[int, str]:
        """Position to prediction digest, of what has finished."""
        return {position: str(result.get("prediction_digest")) for position, result in self.results.items()}


def assign_lanes(attempts: list[Attempt]) -> int:
    """Put each attempt into the first lane that is free when it starts; how many lanes that took."""
    free_at: list[float] = []
    for attempt in sorted(attempts, key=lambda one: (one.started_s, one.position)):
        for lane, until in enumerate(free_at):
            # Two clocks are compared here, so a lane counts as free a few milliseconds early.
            if until <= attempt.started_s + 0.005:
                attempt.lane = lane
                free_at[lane] = attempt.ended_s
                break
        else:
            attempt.lane = len(free_at)
            free_at.append(attempt.ended_s)
    return len(free_at)
