"""Checks that the processes beside one that died are the same ones afterwards."""

from __future__ import annotations

from typing import NamedTuple

from .measure import read_stat


class Sighting(NamedTuple):
    """A process that can't be confused with a later one of the same number."""

    name: str
    pid: int
    start_ticks: int


class Bystanders:
    """Who was running when, and whether each death left the others untouched."""

    def __init__(self) -> None:
        self._running: dict[int, Sighting] = {}
        self.lines: list[str] = []
        self.disturbed = 0

    def started(self, position: int, name: str, pid: int | None) -> None:
        """An agent has begun; its start time is read from /proc, not believed."""
        stat = read_stat(pid) if pid else None
        if pid and stat is not None:
            self._running[position] = Sighting(name, pid, stat.start_ticks)

    def ended(self, position: int) -> None:
        """An agent has come to its ordinary end."""
        self._running.pop(position, None)

    def died(self, position: int, name: str) -> None:
        """An agent has died: look at all the others at once."""
        self._running.pop(position, None)
        same: list[str] = []
        gone: list[str] = []
        for other in self._running.values():
            stat = read_stat(other.pid)
            unchanged = stat is not None and stat.start_ticks == other.start_ticks
            (same if unchanged else gone).append(f"{other.name} (pid {other.pid})")
        self.disturbed += len(gone)
        line = f"{name} died; beside it unchanged: {', '.join(same) or 'nobody was running'}"
        if gone:
            line += f"; NOT THERE ANY MORE: {', '.join(gone)}"
        self.lines.append(line)
