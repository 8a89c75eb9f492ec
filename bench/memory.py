"""Memory of everything that takes part, and CPU use of the machine, while a contestant is at work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from sdk import available_bytes, descendants, pss_bytes

PERIOD_S = 0.1


class MemoryWatch:
    """Looks ten times a second, on a thread.

    With `sum_trees`, at each process below the roots, exactly: what it shares counts as one share for each of those
    who share it. That walks page tables (milliseconds for each large process, under its lock), so it isn't done while
    time counts. MemAvailable alone costs nothing, and is always watched.
    """

    def __init__(self, roots: Callable[[], Iterable[int]], available_before: int, sum_trees: bool) -> None:
        self._roots = roots
        self._sum_trees = sum_trees
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._failure: Exception | None = None
        self._before = self._lowest = available_before
        self.peak_bytes = 0
        self._thread.start()

    def stop(self) -> None:
        """The last look. Raises what went wrong in looking."""
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    @property
    def available_fall_bytes(self) -> int:
        """How far MemAvailable fell below where it stood at the start."""
        return max(0, self._before - self._lowest)

    def _loop(self) -> None:
        try:
            while not self._over.is_set():
                began = time.monotonic()
                self._lowest = min(self._lowest, available_bytes())
                if self._sum_trees:
                    self.peak_bytes = max(self.peak_bytes, sum_of_trees(self._roots()))
                self._over.wait(max(0.01, PERIOD_S - (time.monotonic() - began)))
        except Exception as error:
            self._failure = error


def sum_of_trees(roots: Iterable[int]) -> int:
    """Proportional set sizes of the roots and all that descends from them, in bytes."""
    return sum(pss_bytes(pid)[0] for pid in descendants(roots))


def settled_available_bytes(patience_s: float = 3.0) -> int:
    """MemAvailable once it has stopped rising: what ended before is given back bit by bit."""
    end = time.monotonic() + patience_s
    now = available_bytes()
    while time.monotonic() < end:
        time.sleep(0.1)
        later = available_bytes()
        if later <= now + (1 << 20):
            return later
        now = later
    return now


class CpuClock:
    """How busy all CPUs were between two moments."""

    def __init__(self) -> None:
        self._busy, self._all = _jiffies()

    def use(self) -> float:
        """Since this was made: 1 is every CPU all the time."""
        busy, everything = _jiffies()
        return (busy - self._busy) / max(1, everything - self._all)


def _jiffies() -> tuple[int, int]:
    with open("/proc/stat", "rb") as file:
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait
