"""Checks that the processes beside one that died are the same ones afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from .measure import read_stat


class Sighting(NamedTuple):
    """A process that can't be confused with a later one of the same number."""

    name: str
    pid: int
    start_ticks: int

    def is_there(self) -> bool:
        """Whether this very process still lives."""
        stat = read_stat(self.pid)
        return stat is not None and stat.start_ticks == self.start_ticks


@dataclass
class _Death:
    name: str
    unchanged: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class Bystanders:
    """Who was running when, and whether each death left the others untouched."""

    def __init__(self) -> None:
        self._running: dict[int, Sighting] = {}
        # Not there when another died, and not yet heard of why: news of an ordinary end may be on its way.
        self._missing: dict[int, list[_Death]] = {}
        self._deaths: list[_Death] = []

    def started(self, position: int, name: str, pid: int | None) -> None:
        """An agent has begun; its start time is read from /proc, not believed."""
        self._running.pop(position, None)
        stat = read_stat(pid) if pid else None
        if pid and stat is not None:
            self._running[position] = Sighting(name, pid, stat.start_ticks)

    def ended(self, position: int) -> None:
        """An agent has come to its ordinary end."""
        sighting = self._running.pop(position, None)
        for death in self._missing.pop(position, ()):
            if sighting is not None:
                death.finished.append(sighting.name)

    def died(self, position: int, name: str, by_itself: bool) -> None:
        """An agent has died: look at all the others at once.

        `by_itself` says that its own fault, or a hand, is known to be the cause.
        """
        own = self._running.pop(position, None)
        for earlier in self._missing.pop(position, ()):
            if own is not None:
                (earlier.finished if by_itself else earlier.lost).append(own.name)
        death = _Death(name)
        for place, other in self._running.items():
            if other.is_there():
                death.unchanged.append(f"{other.name} (pid {other.pid})")
            else:
                self._missing.setdefault(place, []).append(death)
        self._deaths.append(death)

    @property
    def disturbed(self) -> int:
        """How many ended with another one's death, for no reason of their own."""
        return sum(len(death.lost) for death in self._deaths) + sum(map(len, self._missing.values()))

    @property
    def lines(self) -> list[str]:
        """One for each death."""
        out = []
        for death in self._deaths:
            line = f"{death.name} died; beside it unchanged: {', '.join(death.unchanged) or 'nobody was running'}"
            if death.finished:
                line += f"; just over, for reasons of their own: {', '.join(death.finished)}"
            missing = [self._running[place].name for place, beside in self._missing.items() if death in beside]
            if death.lost or missing:
                line += f"; NOT THERE ANY MORE: {', '.join(death.lost + missing)}"
            out.append(line)
        return out
