"""Measures memory and CPU time of a whole tree of processes from /proc."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

PERIOD_S = 0.1
# Adding up a large process's pages takes milliseconds: sampling may cost a tenth of a core, no more.
_COST_FACTOR = 10

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


class Sample(NamedTuple):
    """One look: seconds since the start, proportional set size of the tree, MemAvailable of the machine."""

    at_s: float
    pss_bytes: int
    available_bytes: int


class ProcStat(NamedTuple):
    """What /proc/PID/stat says that is needed here."""

    parent: int
    own_cpu_s: float
    reaped_cpu_s: float
    start_ticks: int


def read_stat(pid: int) -> ProcStat | None:
    """The process's line, or None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may itself hold spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return ProcStat(
        int(fields[1]),
        (int(fields[11]) + int(fields[12])) / _TICK,
        (int(fields[13]) + int(fields[14])) / _TICK,
        int(fields[19]),
    )


def all_stats() -> dict[int, ProcStat]:
    """Every process of the machine that is there right now."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = read_stat(int(name))
            if stat is not None:
                found[int(name)] = stat
    return found


def tree(roots: Iterable[int], stats: dict[int, ProcStat]) -> set[int]:
    """The roots that live, and everything that descends from them."""
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.parent, []).append(pid)
    found: set[int] = set()
    waiting = [pid for pid in roots if pid in stats]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    return found


def pss_bytes(pid: int) -> int:
    """Proportional set size: shared pages count as one share for each of those who share them.

    Where the kernel doesn't let us read it (an agent under another uid, seen without root), the pages that
    the process shares with nobody are counted instead: less than the truth, never more.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except PermissionError:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/statm", "rb") as file:
            fields = file.read().split()
            return (int(fields[1]) - int(fields[2])) * _PAGE
    except OSError:
        pass
    return 0


def available_bytes() -> int:
    """MemAvailable of the machine."""
    with open("/proc/meminfo", "rb") as file:
        for line in file:
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_s(pids: Iterable[int], stats: dict[int, ProcStat]) -> float:
    """CPU seconds of these processes and of all children that they have waited for."""
    return sum(stats[pid].own_cpu_s + stats[pid].reaped_cpu_s for pid in pids if pid in stats)


class Sampler:
    """Looks at a tree of processes ten times a second, on a thread, until it is stopped."""

    def __init__(self, roots: Callable[[], Iterable[int]]) -> None:
        self._roots = roots
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="memory sampler", daemon=True)
        self.samples: list[Sample] = []
        self.started = time.monotonic()
        self.available_before = available_bytes()

    def start(self) -> Sampler:
        """Begin; the first sample's MemAvailable is what the fall is counted from."""
        self.started = time.monotonic()
        self._thread.start()
        return self

    def stop(self) -> None:
        """End; the samples stay."""
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            used = time.thread_time()
            stats = all_stats()
            total = sum(pss_bytes(pid) for pid in tree(self._roots(), stats))
            self.samples.append(Sample(began - self.started, total, available_bytes()))
            cost = time.thread_time() - used
            self._stop.wait(max(PERIOD_S, _COST_FACTOR * cost) - min(PERIOD_S, time.monotonic() - began))

    @property
    def peak_bytes(self) -> int:
        """The largest sum seen."""
        return max((sample.pss_bytes for sample in self.samples), default=0)

    @property
    def available_fall_bytes(self) -> int:
        """How far MemAvailable fell below where it stood at the start."""
        lowest = min((sample.available_bytes for sample in self.samples), default=self.available_before)
        return max(0, self.available_before - lowest)
