"""Measures memory and CPU time of a whole tree of processes from /proc."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

PERIOD_S = 0.1
# Adding up pages may take this part of a core, but for the first look at each process.
_BUDGET = 0.02
# A size is looked up again when the resident set has moved this far, or after this time.
_STALE_BYTES = 8 << 20
_STALE_S = 3.0

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")
# CONFIG_PROC_CHILDREN, which every distribution has set.
_HAS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


class Sample(NamedTuple):
    """One look: seconds since the start, proportional set size of the tree, MemAvailable of the machine."""

    at_s: float
    pss_bytes: int
    available_bytes: int


class _Reading(NamedTuple):
    at: float
    pss_bytes: int
    resident_bytes: int


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


def descendants(roots: Iterable[int]) -> set[int]:
    """The roots and everything that descends from them, without looking at the machine's other processes."""
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in found:
            continue
        found.add(pid)
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    waiting.extend(int(child) for child in file.read().split())
        except FileNotFoundError:
            if not _HAS_CHILDREN:
                return tree(found | set(waiting), all_stats())
        except OSError:
            pass
    return found


def resident_bytes(pid: int) -> int | None:
    """Resident set size, or None if the process is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return None


def pss_bytes(pid: int) -> tuple[int, int]:
    """Proportional set size, in which shared pages count as one share for each of those who share them; and the
    resident set size of the same instant, which is another one a moment later if the process leaks.

    Where the kernel doesn't let us read it (an agent under another uid, seen without root), the pages that
    the process shares with nobody are counted instead: less than the truth, never more.
    """
    found = {}
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith((b"Rss:", b"Pss:")):
                    found[line[:3]] = int(line.split()[1]) * 1024
    except PermissionError:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/statm", "rb") as file:
            fields = file.read().split()
            return (int(fields[1]) - int(fields[2])) * _PAGE, int(fields[1]) * _PAGE
    except OSError:
        pass
    return found.get(b"Pss", 0), found.get(b"Rss", 0)


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


def machine_cpu_s() -> float:
    """CPU seconds that this machine has spent on anything, or lost to its neighbours, since it started."""
    with open("/proc/stat", "rb") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICK


class _Memory:
    """An estimate of the proportional set sizes of many processes at a small part of the price.

    Reading one large process's smaps_rollup walks all its pages and 1,800 mappings: some milliseconds. Its
    resident set costs microseconds, and what changes within a second or two is nearly always private memory;
    so a size is read again only when the resident set has moved, or is old, and only while the budget lasts.
    """

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._spent_s = 0.0
        self._began = time.monotonic()
        self._known: dict[int, _Reading] = {}

    def total(self, pids: Iterable[int]) -> int:
        """The sum over these processes now."""
        now = time.monotonic()
        resident = {pid: size for pid, size in ((pid, resident_bytes(pid)) for pid in pids) if size is not None}
        # A share of what others shared with a process that has gone, or come, is now another one.
        same = self._known.keys() == resident.keys()
        self._known = {
            pid: reading if same else reading._replace(at=float("-inf"))
            for pid, reading in self._known.items()
            if pid in resident
        }

        def urgency(pid: int) -> float:
            reading = self._known.get(pid)
            if reading is None:
                return float("inf")
            return abs(resident[pid] - reading.resident_bytes) / _STALE_BYTES + (now - reading.at) / _STALE_S

        for pid in sorted(resident, key=urgency, reverse=True):
            affordable = urgency(pid) >= 1 and self._spent_s <= self._budget * (now - self._began)
            if pid in self._known and not affordable:
                continue
            used = time.thread_time()
            self._known[pid] = _Reading(now, *pss_bytes(pid))
            resident[pid] = self._known[pid].resident_bytes
            self._spent_s += time.thread_time() - used
        return sum(
            max(0, self._known[pid].pss_bytes + size - self._known[pid].resident_bytes)
            for pid, size in resident.items()
        )


class Sampler:
    """Looks at a tree of processes ten times a second, on a thread, until it is stopped."""

    def __init__(self, roots: Callable[[], Iterable[int]]) -> None:
        self._roots = roots
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="memory sampler", daemon=True)
        self._memory = _Memory(_BUDGET)
        self.samples: list[Sample] = []
        self.cost_s = 0.0
        self._failure: Exception | None = None
        self.started = time.monotonic()
        self.available_before = available_bytes()

    def start(self) -> Sampler:
        """Begin; the first sample's MemAvailable is what the fall is counted from."""
        self.started = time.monotonic()
        self._thread.start()
        return self

    def stop(self) -> None:
        """End; the samples stay. Whatever went wrong in measuring is raised here, not lost with the thread."""
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _loop(self) -> None:
        try:
            self._look_until_stopped()
        except Exception as error:
            self._failure = error

    def _look_until_stopped(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            total = self._memory.total(descendants(self._roots()))
            self.samples.append(Sample(began - self.started, total, available_bytes()))
            self.cost_s = time.thread_time()
            self._stop.wait(max(0.0, PERIOD_S - (time.monotonic() - began)))

    @property
    def peak_bytes(self) -> int:
        """The largest sum seen."""
        return max((sample.pss_bytes for sample in self.samples), default=0)

    @property
    def available_fall_bytes(self) -> int:
        """How far MemAvailable fell below where it stood at the start."""
        lowest = min((sample.available_bytes for sample in self.samples), default=self.available_before)
        return max(0, self.available_before - lowest)
