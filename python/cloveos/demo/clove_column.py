"""Runs and measures the CloveOS column: the same experiments as a sweep, each in its own isolated process."""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from . import clove_cli, sweep_file
from .bystanders import Bystanders
from .clove_cli import CliFailed, Clove, TaskChange
from .column import Attempt, Column, assign_lanes
from .measure import Sampler, all_stats, cpu_s, machine_cpu_s, tree
from .standalone_column import KILL_AFTER_S, Work
from .untrusted import for_terminal
from .victims import Victims

# How long after its start an agent is asked for its process.
_PID_AFTER_S = 0.1


class Audience(Protocol):
    """Whoever looks on while the sweep runs."""

    # Whether `change` is to be told results; asking for them costs a command each.
    wants_results: bool

    def change(self, position: int, event: Mapping[str, Any]) -> None:
        """A task has changed its state."""

    def close(self) -> None:
        """The run is over."""


class _Books:
    """The pids that belong to CloveOS, and the CPU time that they had used before this run."""

    def __init__(self, clove: Clove) -> None:
        info = clove.kernel_info()
        self.roots = [int(info[key]) for key in ("pid", "launcher_pid") if info.get(key)]
        stats = all_stats()
        self._before = cpu_s(tree(self.roots, stats), stats)

    def cpu_s(self) -> float:
        """What kernel, launcher, templates and agents have used since.

        The launcher reaps the agents, so what they used is in its account when they are gone.
        """
        stats = all_stats()
        return cpu_s(tree(self.roots, stats), stats) - self._before


def run(
    configs: Sequence[Mapping[str, Any]],
    work: Work,
    victims: Victims,
    seed: int,
    audience: Audience,
    bystanders: Bystanders,
    say: Callable[[str], None],
    kill_after_s: float = KILL_AFTER_S,
) -> Column:
    """The column, whatever happens; without a usable `clove` its `error` says why."""
    column = Column("CloveOS", len(configs), work.cores)
    try:
        clove = Clove.find()
        _run(clove, column, configs, work, victims, seed, audience, bystanders, say, kill_after_s)
    except CliFailed as error:
        column.error = str(error)
        column.what_happened = f"not finished: {error}"
        say(f"CloveOS: {error}")
    return column


def _run(
    clove: Clove,
    column: Column,
    configs: Sequence[Mapping[str, Any]],
    work: Work,
    victims: Victims,
    seed: int,
    audience: Audience,
    bystanders: Bystanders,
    say: Callable[[str], None],
    kill_after_s: float,
) -> None:
    books: _Books | None = None
    watching: list[int] = []
    sampler = Sampler(lambda: [*(books.roots if books else ()), *watching])
    folder = Path(tempfile.mkdtemp(prefix="clove-demo-"))
    run_id = ""
    finished = False
    machine_before_s = machine_cpu_s()
    sampler.start()
    try:
        books = _Books(clove)
        file = folder / "drug-discovery.toml"
        file.write_text(
            sweep_file.sweep(
                work.script,
                work.python,
                configs,
                work.jobs,
                seed,
                work.memory_bytes,
                work.environment,
                [Path(work.environment[key]) for key in ("DRUG_DISCOVERY_WHEEL", "DRUG_DISCOVERY_FEATURES")],
            )
        )
        run_id = clove.sweep_run(file)
        watch = clove.sweep_watch(run_id)
        watching.append(watch.pid)
        follower = _Follower(clove, run_id, work.names, victims, audience, bystanders, kill_after_s)
        try:
            follower.follow(watch)
        finally:
            watch.close()
        column.wall_s = time.monotonic() - sampler.started
        column.cpu_s = books.cpu_s()
        column.machine_cpu_s = machine_cpu_s() - machine_before_s
        finished = True
    finally:
        audience.close()
        sampler.stop()
        if run_id and not finished:
            try:
                clove.sweep_cancel(run_id)
            except CliFailed as error:
                say(f"the sweep {run_id} couldn't be cancelled: {error}")
        shutil.rmtree(folder, ignore_errors=True)
    column.peak_bytes = sampler.peak_bytes
    column.available_fall_bytes = sampler.available_fall_bytes
    column.samples = sampler.samples
    began_ms = (time.time() - (time.monotonic() - sampler.started)) * 1000
    take_results(column, clove.sweep_results(run_id), began_ms, follower.last)
    follower.complain(column, say)


class _Follower:
    """Passes each change on, and sends the kill by hand when its victim has begun."""

    def __init__(
        self,
        clove: Clove,
        run_id: str,
        names: Sequence[str],
        victims: Victims,
        audience: Audience,
        bystanders: Bystanders,
        kill_after_s: float,
    ) -> None:
        self.last: dict[int, TaskChange] = {}
        self._clove = clove
        self._run_id = run_id
        self._positions = {name: position for position, name in enumerate(names)}
        self._names = names
        self._victims = victims
        self._audience = audience
        self._bystanders = bystanders
        self._kill_after_s = kill_after_s
        self._deaths_told: dict[int, int] = {}
        self._without_pid: dict[int, tuple[str, float]] = {}
        self._timer: threading.Timer | None = None
        self._kill_error: CliFailed | None = None

    def follow(self, watch: Iterable[TaskChange]) -> None:
        """Until the sweep ends."""
        changes: queue.Queue[TaskChange | CliFailed | None] = queue.Queue()

        def read() -> None:
            try:
                for change in watch:
                    # Here and not with the rest, which asks for more and may fall behind: a hand must be quick.
                    if self._positions.get(change.name) == self._victims.kill:
                        self._aim(change)
                    changes.put(change)
                changes.put(None)
            except CliFailed as error:
                changes.put(error)

        threading.Thread(target=read, name="sweep watch", daemon=True).start()
        try:
            while True:
                try:
                    change = changes.get(timeout=_PID_AFTER_S if self._without_pid else None)
                except queue.Empty:
                    self._ask_for_pids()
                    continue
                if change is None:
                    return
                if isinstance(change, CliFailed):
                    raise change
                self._take(change)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def complain(self, column: Column, say: Callable[[str], None]) -> None:
        """Say so if the kill by hand never hit its victim."""
        if any(one["position"] == self._victims.kill and one.get("killed_by") for one in column.certificates):
            # A kill of ours that failed then was only slower than the audience's.
            return
        name = self._names[self._victims.kill]
        why = str(self._kill_error) if self._kill_error else "it was over before, or was never seen running"
        column.error = f"the kill by hand of {name} never came about: {why}"
        column.what_happened += f"; {column.error}"
        say(f"CloveOS: {column.error}")

    def _take(self, change: TaskChange) -> None:
        position = self._positions.get(change.name)
        if position is None:
            raise CliFailed(f"the sweep tells of a task {for_terminal(change.name)} that isn't the demo's")
        self.last[position] = change
        event = {"state": change.state, "attempt": change.attempt}
        # Of two changes in quick succession only the second may be told, so deaths are counted, not waited for.
        died = change.deaths - self._deaths_told.get(position, 0)
        task: Mapping[str, Any] = {}
        if died > 0 or (change.state == "done" and self._audience.wants_results):
            task = self._clove.sweep_inspect(self._run_id, change.number)
        if died > 0:
            self._deaths_told[position] = change.deaths
            self._died(position, change, (task.get("certificates") or [])[-died:])
        self._without_pid.pop(position, None)
        if change.state == "running":
            self._bystanders.started(position, change.name, change.pid)
            if change.pid is None and change.agent:
                self._without_pid[position] = (change.agent, time.monotonic())
        elif change.state == "done":
            self._bystanders.ended(position)
        if change.state not in clove_cli.FAILED_STATES:
            self._audience.change(position, {**event, "result": task.get("result")})

        if any(time.monotonic() - since > _PID_AFTER_S for _, since in self._without_pid.values()):
            self._ask_for_pids()

    def _ask_for_pids(self) -> None:
        """A task is told to run as soon as it has its slot; which process does it is known a little later."""
        pids = self._clove.agent_pids()
        for position, (agent, _) in list(self._without_pid.items()):
            if agent in pids:
                self._bystanders.started(position, self._names[position], pids[agent])
                del self._without_pid[position]

    def _died(self, position: int, change: TaskChange, certificates: Sequence[dict[str, Any]]) -> None:
        for certificate in certificates or ({},):
            attempt = int(certificate.get("attempt") or change.attempt)
            own = self._victims.fault_at(position) is not None or bool(clove_cli.killed_by(certificate))
            self._bystanders.died(position, change.name, own)
            state = change.state if attempt == change.attempt else "backoff"
            self._audience.change(position, {"state": state, "attempt": attempt, "certificate": certificate})

    def _aim(self, change: TaskChange) -> None:
        if change.state == "running" and change.attempt == 1:
            if self._timer is None:
                self._timer = threading.Timer(self._kill_after_s, self._kill, (change.name,))
                self._timer.daemon = True
                self._timer.start()
        elif self._timer is not None:
            self._timer.cancel()

    def _kill(self, name: str) -> None:
        try:
            self._clove.kill(name)
        except CliFailed as error:
            self._kill_error = error


def _attempt(position: int, number: int, times: tuple[Any, Any], end: str, began_ms: float) -> Attempt:
    started_s, ended_s = (max(0.0, (float(at or began_ms) - began_ms) / 1000) for at in times)
    return Attempt(position, number, started_s, max(started_s, ended_s), end)


def checked(result: Mapping[str, Any]) -> dict[str, Any]:
    """What an experiment returned, without numbers that aren't numbers: an agent may return anything."""
    numeric = ("rmse", "auc", "seconds")
    return {key: value for key, value in result.items() if key not in numeric or isinstance(value, (int, float))}


def take_results(
    column: Column,
    listed: Sequence[Mapping[str, Any]],
    began_ms: float,
    last: Mapping[int, TaskChange],
) -> None:
    """Read results and certificates, as `clove sweep results` lists them, into the column.

    When an attempt that ended well began and ended is in none of them: `last`, what was seen last of each, tells.
    """
    ordered = sorted(listed, key=lambda entry: int(entry.get("index", 0)))
    for position, entry in enumerate(ordered):
        name = for_terminal(entry.get("name"))
        done = entry.get("state") == "done"
        if done and isinstance(entry.get("result"), dict):
            column.results[position] = checked(entry["result"])
        for number, certificate in enumerate(entry.get("certificates") or (), 1):
            attempt = int(certificate.get("attempt") or number)
            times = (certificate.get("started_ms"), certificate.get("ended_ms"))
            end = clove_cli.end_word(certificate)
            column.attempts.append(_attempt(position, attempt, times, end, began_ms))
            column.certificates.append({**certificate, "name": name, "position": position, "attempt": attempt})
        seen = last.get(position)
        if done and seen is not None and seen.ended_ms is not None:
            # A task is "started" as soon as it has its slot, which for the first ones includes the template.
            started = seen.ended_ms - 1000 * seen.seconds if seen.seconds else seen.started_ms
            times = (started, seen.ended_ms)
            column.attempts.append(_attempt(position, int(entry.get("attempts") or 1), times, "done", began_ms))
    column.completed = len(column.results)
    assign_lanes(column.attempts)
    deaths = column.certificates
    causes = ", ".join(f"{clove_cli.end_word(one)} in #{one['position'] + 1}" for one in deaths)
    retried = sum(1 for one in {one["position"] for one in deaths} if one in column.results)
    column.what_happened = f"{len(deaths)} deaths ({causes}), {retried} retried" if deaths else "no deaths"
