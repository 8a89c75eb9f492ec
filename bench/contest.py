"""Starts contestants, follows what they say, and measures them; runs several of them in turns."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kernel_home import KernelHome
from memory import CpuClock, MemoryWatch, settled_available_bytes
from places import CONTESTANTS, environment

T = TypeVar("T")

#: No contestant takes longer, whatever hangs.
DEADLINE_S = 3600.0


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The same experiments for everybody."""

    trials: int
    scale: float
    jobs: int
    faults: Mapping[int, str] = dataclasses.field(default_factory=dict)
    memory_bytes: int = 512 << 20

    def orders(self, reuse: int = 1) -> dict[str, Any]:
        """For a contestant's command line."""
        return {**dataclasses.asdict(self), "faults": {str(n): f for n, f in self.faults.items()}, "reuse": reuse}


@dataclasses.dataclass
class Finish:
    """How a contestant came through."""

    name: str
    #: From the start of its program to its end: interpreter, imports, templates and pools included.
    whole_s: float
    #: From the making of its pool or executor to the last result.
    sweep_s: float = 0.0
    #: Busy CPUs from the first result to the last: 1 is all of them.
    cpu_use: float = 0.0
    results: list[dict[str, float]] = dataclasses.field(default_factory=list)
    failures: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    #: 0 unless memory was what mattered.
    peak_bytes: int = 0
    available_fall_bytes: int = 0
    #: Why it ended without telling its results.
    died: str = ""
    #: Results that it had told by then.
    told: int = 0

    @property
    def completed(self) -> int:
        """Trials with a result."""
        return len(self.results) or self.told

    @property
    def trial_cpu_ms(self) -> float:
        """CPU time of one experiment, the mean."""
        return 1000 * statistics.fmean(r["cpu_s"] for r in self.results)

    @property
    def trial_faults(self) -> float:
        """Minor page faults of one experiment, the mean."""
        return statistics.fmean(r["faults"] for r in self.results)

    def scores(self) -> dict[int, float]:
        """By position: everybody has to find the same."""
        return {int(r["n"]): r["score"] for r in self.results}


def compete(
    name: str,
    script: str,
    sweep: Sweep,
    *,
    home: KernelHome | None = None,
    reuse: int = 1,
    sum_trees: bool = False,
    own_malloc: bool = False,
) -> Finish:
    """Runs one contestant to its end. Ours needs a `home`; its kernel and launcher are counted too."""
    env = home.env if home else environment(own_malloc=own_malloc)
    command = [sys.executable, str(CONTESTANTS / script), json.dumps(sweep.orders(reuse))]
    finish, code, errors = carry_out(name, command, env, home, sum_trees)
    if not finish.sweep_s:
        how = f"it died of {signal.Signals(-code).name}" if code < 0 else f"it ended with code {code}"
        last = "".join(errors.strip().splitlines()[-1:])
        finish.died = f"{how}: {last}" if last and code > 0 else how
    return finish


def carry_out(
    name: str, command: Sequence[str], env: Mapping[str, str], home: KernelHome | None, sum_trees: bool
) -> tuple[Finish, int, str]:
    """Runs a program to its end, and measures it and what descends from it; also its exit code and standard error.

    The kernel of a `home` is a new one, without a template, and ends afterwards: it mustn't be there beside others.
    """
    if home is not None:
        home.stop()
    available_before = settled_available_bytes()
    if home is not None:
        home.start()
    try:
        return _watched(name, command, env, home.pids() if home else [], available_before, sum_trees)
    finally:
        if home is not None:
            home.stop()


def _watched(
    name: str,
    command: Sequence[str],
    env: Mapping[str, str],
    others: Sequence[int],
    available_before: int,
    sum_trees: bool,
) -> tuple[Finish, int, str]:
    with tempfile.TemporaryDirectory(prefix="clove-bench-") as folder, open(Path(folder) / "err", "w+") as errors:
        began = time.monotonic()
        child = subprocess.Popen(
            command,
            env=dict(env), cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True,
        )  # fmt: skip
        memory = MemoryWatch(lambda: [child.pid, *others], available_before, sum_trees)
        killer = threading.Timer(DEADLINE_S, _end_group, (child.pid,))
        killer.start()
        try:
            finish = _listen(name, child)
            code = child.wait()
            finish.whole_s = time.monotonic() - began
        finally:
            killer.cancel()
            _end_group(child.pid)
            child.wait()
            memory.stop()
        finish.peak_bytes, finish.available_fall_bytes = memory.peak_bytes, memory.available_fall_bytes
        errors.seek(0)
        return finish, code, errors.read()


def _listen(name: str, child: subprocess.Popen[str]) -> Finish:
    finish = Finish(name, 0.0)
    began_at = 0.0
    clock = CpuClock()
    assert child.stdout is not None
    for line in child.stdout:
        if not line.startswith('{"event"'):
            continue
        said = json.loads(line)
        if said["event"] == "begin":
            began_at = said["at"]
        elif said["event"] == "first":
            clock = CpuClock()
        elif said["event"] == "progress":
            finish.told = said["done"]
        elif said["event"] == "last":
            finish.cpu_use = clock.use()
            finish.sweep_s = said["at"] - began_at
            finish.results, finish.failures = said["results"], said["failures"]
    return finish


def _end_group(pid: int) -> None:
    """A contestant leads a session of its own, so that nothing of it stays."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def in_turns(rounds: int, contestants: Mapping[str, Callable[[], T]], say: Callable[[str], None]) -> dict[str, list[T]]:
    """Each contestant once in each round, each round beginning with another one: A B C, B C A, C A B."""
    names = list(contestants)
    found: dict[str, list[T]] = {name: [] for name in names}
    for round_ in range(rounds):
        shift = round_ % len(names)
        for name in names[shift:] + names[:shift]:
            say(f"round {round_ + 1} of {rounds}: {name}")
            found[name].append(contestants[name]())
    return found


def check_alike(finishes: list[Finish]) -> None:
    """Raises when somebody has lost a result, or found another one: then nothing can be compared."""
    for f in finishes:
        if f.died or f.failures:
            why = f.died or f"{len(f.failures)} failures, the first {f.failures[0]}"
            raise RuntimeError(f"{f.name} didn't come through: {why}")
        if f.scores() != finishes[0].scores():
            raise RuntimeError(f"{f.name} and {finishes[0].name} found different results")


def calibrated(sweep: Sweep, cpu_ms: float) -> Sweep:
    """The sweep with its trials' size such that one costs about `cpu_ms` of CPU in the pool on this machine."""
    probe = compete("calibration", "process_pool.py", dataclasses.replace(sweep, trials=32, scale=1.0, faults={}))
    check_alike([probe])
    return dataclasses.replace(sweep, scale=round(min(40.0, max(0.05, cpu_ms / probe.trial_cpu_ms)), 2))
