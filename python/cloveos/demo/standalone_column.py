"""Runs and measures one column without CloveOS, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .column import Attempt, Column, assign_lanes
from .measure import Sampler, machine_cpu_s
from .victims import Victims

# How long the victim of the kill by hand has been running when the hand comes.
KILL_AFTER_S = 0.5
# A pool that loses a worker at the wrong instant can hang; nothing here takes a quarter of this.
GIVE_UP_S = 1800.0

# Text, how many are done, out of how many.
Count = Callable[[str, int, int], None]


class Work(NamedTuple):
    """What all columns have in common."""

    names: Sequence[str]
    script: Path
    python: Path
    environment: Mapping[str, str]
    memory_bytes: int
    jobs: int
    cores: int
    # CPU seconds of all experiments together, as far as can be told before.
    cpu_s: float = 0.0


class _Run:
    """The state of one column while its lines come in."""

    def __init__(self, column: Column, names: Sequence[str], victims: Victims | None) -> None:
        self.column = column
        self.names = names
        self.victims = victims
        self.started = time.monotonic()
        self.running: dict[int, float] = {}
        self.stopped: dict[int, float] = {}
        self.pids: dict[int, int] = {}
        self.notes: list[str] = []
        self.broken_at: int | None = None
        self.killed_by_hand = False
        self.timers: list[threading.Timer] = []

    def now(self) -> float:
        return time.monotonic() - self.started

    def take(self, event: Mapping[str, Any]) -> None:
        """One line of the standalone program."""
        kind = event["event"]
        if kind == "start":
            self.running[event["position"]] = self.now()
            self.pids[event["position"]] = event["pid"]
            if self.victims is not None and event["position"] == self.victims.kill:
                timer = threading.Timer(KILL_AFTER_S, self._kill, (event["position"],))
                timer.daemon = True
                timer.start()
                self.timers.append(timer)
        elif kind == "stop":
            # The worker's own word: its next experiment begins before the parent hears of this result.
            self.stopped[event["position"]] = self.now()
        elif kind == "done":
            self.column.results[event["position"]] = event["result"]
            self.close(event["position"], "done")
        elif kind == "raised":
            self.notes.append(f"{event['error']} in #{event['position'] + 1}")
            self.close(event["position"], event["error"])
        elif kind == "broken" and self.broken_at is None:
            self.broken_at = len(self.column.results)
            for position in list(self.running):
                self.close(position, self.cause(position) or "pool broken")

    def close(self, position: int, end: str) -> None:
        """The experiment's process isn't at it any more."""
        started = self.running.pop(position, None)
        if started is not None:
            self.column.attempts.append(Attempt(position, 1, started, self.stopped.get(position, self.now()), end))

    def cause(self, position: int) -> str | None:
        """What we know to have ended it, because we did it."""
        kind = self.victims.fault_at(position) if self.victims is not None else None
        if kind == "kill" and not self.killed_by_hand:
            return None
        return kind

    def _kill(self, position: int) -> None:
        if position in self.running:
            self.killed_by_hand = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pids[position], signal.SIGKILL)


def run(
    name: str,
    mode: str,
    configs: Sequence[Mapping[str, Any]],
    work: Work,
    victims: Victims | None,
    count: Count,
) -> Column:
    """One column: `mode` is "sequential" or "pool"."""
    column = Column(name, len(configs), work.cores)
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    environment.update(work.environment)
    child: subprocess.Popen[bytes]
    sampler = Sampler(lambda: (child.pid,))
    state = _Run(column, work.names, victims)
    child = subprocess.Popen(
        [str(work.python), str(Path(__file__).with_name("standalone.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        # A group of its own: whatever is left of it at the end can be ended as one.
        start_new_session=True,
    )
    machine_before_s = machine_cpu_s()
    sampler.start()
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    orders = {
        "mode": mode,
        "configs": list(configs),
        "script": str(work.script),
        "memory_bytes": work.memory_bytes,
        "jobs": work.jobs,
    }
    complaints: list[bytes] = []
    errors = child.stderr
    drain = threading.Thread(target=lambda: complaints.extend(errors), daemon=True)
    drain.start()
    give_up = threading.Timer(GIVE_UP_S, _end_group, (child.pid,))
    give_up.daemon = True
    give_up.start()
    try:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(orders).encode())
            child.stdin.close()
        for line in child.stdout:
            state.take(json.loads(line))
            if line.startswith(b'{"event": "done"'):
                count(f"{name}: {len(column.results)} of {column.total}", len(column.results), column.total)
        # wait4 and not Popen.wait: it tells what this one child, and those it waited for, have used.
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    finally:
        give_up.cancel()
        for timer in state.timers:
            timer.cancel()
        _end_group(child.pid)
        sampler.stop()
    drain.join(timeout=2)
    column.wall_s = state.now()
    column.machine_cpu_s = machine_cpu_s() - machine_before_s
    column.cpu_s = usage.ru_utime + usage.ru_stime
    column.completed = len(column.results)
    column.peak_bytes = sampler.peak_bytes
    column.available_fall_bytes = sampler.available_fall_bytes
    column.samples = sampler.samples
    column.what_happened = _story(state, child.returncode, b"".join(complaints))
    assign_lanes(column.attempts)
    return column


def _end_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _story(state: _Run, status: int, complaints: bytes) -> str:
    """How it ended, in a few words."""
    column = state.column
    if state.broken_at is not None:
        ends = [f"{one.end} in #{one.position + 1}" for one in column.attempts if one.end in Victims._fields]
        because = f" after {ends[-1]}" if ends else ""
        return "; ".join([*state.notes, f"BrokenProcessPool{because}: {column.total - column.completed} lost"])
    if status == 0:
        return "; ".join(state.notes) or "no faults"
    last = max(state.running, default=None)
    for position in list(state.running):
        if status < 0:
            end = state.cause(position) or signal.Signals(-status).name
        else:
            words = complaints.decode(errors="replace").strip().splitlines()
            end = words[-1].split(":")[0] if words else f"exit status {status}"
        state.close(position, end)
        state.notes.append(f"died of {_spoken(end)} in #{position + 1}: {column.total - column.completed} not done")
    if last is None:
        words = complaints.decode(errors="replace").strip().splitlines()
        column.error = words[-1] if words else f"exit status {status}"
        return f"failed before the first experiment: {column.error}"
    return "; ".join(state.notes)


def _spoken(end: str) -> str:
    return {"segfault": "a segfault", "kill": "the kill by hand", "leak": "the leak"}.get(end, end)
