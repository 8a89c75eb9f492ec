"""Runs and measures the CloveOS column: the same experiments as a sweep, each in its own isolated process."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from . import clove_cli, sweep_file
from .bystanders import Bystanders
from .clove_cli import CliFailed, Clove
from .column import Attempt, Column, assign_lanes
from .measure import Sampler, all_stats, cpu_s, tree
from .standalone_column import KILL_AFTER_S, Work
from .untrusted import for_terminal
from .victims import Victims


class Audience(Protocol):
    """Whoever looks on while the sweep runs."""

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
        _run(clove, column, configs, work, victims, seed, audience, bystanders, kill_after_s)
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
    kill_after_s: float,
) -> None:
    books: _Books | None = None
    watching: list[int] = []
    sampler = Sampler(lambda: [*(books.roots if books else ()), *watching])
    folder = Path(tempfile.mkdtemp(prefix="clove-demo-"))
    run_id = ""
    finished = False
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
        try:
            _follow(clove, watch, work.names, victims, audience, bystanders, kill_after_s)
        finally:
            watch.close()
        column.wall_s = time.monotonic() - sampler.started
        column.cpu_s = books.cpu_s()
        finished = True
    finally:
        audience.close()
        sampler.stop()
        if run_id and not finished:
            with contextlib.suppress(CliFailed):
                clove.sweep_cancel(run_id)
        shutil.rmtree(folder, ignore_errors=True)
    column.peak_bytes = sampler.peak_bytes
    column.available_fall_bytes = sampler.available_fall_bytes
    column.samples = sampler.samples
    began_ms = (time.time() - (time.monotonic() - sampler.started)) * 1000
    take_results(column, clove.sweep_results(run_id), began_ms)


def _follow(
    clove: Clove,
    watch: clove_cli.WatchedSweep,
    names: Sequence[str],
    victims: Victims,
    audience: Audience,
    bystanders: Bystanders,
    kill_after_s: float,
) -> None:
    """Pass on each change, and send the kill by hand when its victim has begun."""
    timer: threading.Timer | None = None
    positions = {name: position for position, name in enumerate(names)}
    try:
        for event in watch:
            name = str(event.get("name"))
            if name not in positions:
                continue
            position = positions[name]
            state = event.get("state")
            if state == "running":
                bystanders.started(position, name, event.get("pid"))
                if position == victims.kill and event.get("attempt") == 1:
                    timer = threading.Timer(kill_after_s, _kill, (clove, name))
                    timer.daemon = True
                    timer.start()
            elif state == "done":
                bystanders.ended(position)
            elif state is not None:
                certificate = event.get("certificate") or {}
                own = victims.fault_at(position) is not None or bool(clove_cli.killed_by(certificate))
                bystanders.died(position, name, own)
            if position == victims.kill and state != "running" and timer is not None:
                timer.cancel()
            audience.change(position, event)
    finally:
        if timer is not None:
            timer.cancel()


def _kill(clove: Clove, name: str) -> None:
    try:
        clove.kill(name)
    except CliFailed:
        # The audience was faster, or the task: the certificates tell.
        return


def _attempt(position: int, number: int, times: tuple[Any, Any], end: str, began_ms: float) -> Attempt:
    started_s, ended_s = (max(0.0, (float(at or began_ms) - began_ms) / 1000) for at in times)
    return Attempt(position, number, started_s, max(started_s, ended_s), end)


def checked(result: Mapping[str, Any]) -> dict[str, Any]:
    """What an experiment returned, without numbers that aren't numbers: an agent may return anything."""
    numeric = ("rmse", "auc", "seconds")
    return {key: value for key, value in result.items() if key not in numeric or isinstance(value, (int, float))}


def take_results(column: Column, listed: Sequence[Mapping[str, Any]], began_ms: float) -> None:
    """Read results and certificates, as `clove sweep results` lists them, into the column."""
    ordered = sorted(listed, key=lambda entry: int(entry.get("index", 0)))
    for position, entry in enumerate(ordered):
        name = for_terminal(entry.get("name"))
        if entry.get("state") == "done" and isinstance(entry.get("result"), dict):
            column.results[position] = checked(entry["result"])
        certificates = list(entry.get("certificates") or ())
        done = entry.get("state") == "done"
        tried = int(entry.get("attempts") or len(certificates))
        for number, certificate in enumerate(certificates, 1):
            good = done and number == tried
            end = "done" if good else for_terminal(certificate.get("cause"))
            times = (certificate.get("started_ms"), certificate.get("ended_ms"))
            column.attempts.append(_attempt(position, number, times, end, began_ms))
            if not good:
                column.certificates.append({"name": name, "position": position, "attempt": number, **certificate})
        if done and tried > len(certificates):
            # An attempt that ended well may have left no certificate: its times are the task's own.
            ended = entry.get("ended_ms")
            started = float(ended) - 1000 * float(entry["seconds"]) if ended and entry.get("seconds") else None
            times = (started or entry.get("started_ms"), ended)
            column.attempts.append(_attempt(position, tried, times, "done", began_ms))
    column.completed = len(column.results)
    told = sum(clove_cli.spent_cpu_s(one) for entry in listed for one in entry.get("certificates") or ())
    # Two accounts of the same thing: the processes' own, and the certificates'. Take the one that found more.
    column.cpu_s = max(column.cpu_s, told)
    assign_lanes(column.attempts)
    deaths = column.certificates
    causes = ", ".join(f"{for_terminal(one.get('cause'))} in #{one['position'] + 1}" for one in deaths)
    retried = sum(1 for one in {one["position"] for one in deaths} if one in column.results)
    column.what_happened = f"{len(deaths)} deaths ({causes}), {retried} retried" if deaths else "no deaths"
