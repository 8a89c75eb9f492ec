"""The short experiments with one that segfaults and one that leaks: what is completed, by us and by others."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Callable

from bench import Bench
from benchmarks.short_trials import CPU_MS, REUSE
from contest import Finish, Sweep, calibrated, check_alike, compete, in_turns
from figures import Figure, Row, at_most, exactly

TITLE = "2,000 trials, #847 segfaults, #1203 leaks under 512 MiB"


def run(bench: Bench) -> list[Row]:
    """Ours with and without the faults in turns; the others once with the faults."""
    trials = bench.size(2000, 24)
    segfault, leak = bench.size((847, 1203), (9, 14))
    clean = Sweep(trials=trials, scale=0.2, jobs=bench.jobs)
    if not bench.quick:
        bench.say("finding the size of a trial")
        clean = calibrated(clean, CPU_MS)
    faulty = Sweep(trials, clean.scale, bench.jobs, {segfault: "segfault", leak: "leak"})
    rows: list[Row] = []
    with bench.home() as home:
        contestants: dict[str, Callable[[], Finish]] = {}
        for mode, reuse in (("fresh", 1), ("reuse", REUSE)):
            for kind, sweep in (("clean", clean), ("faulty", faulty)):
                name = f"{mode}, {kind}"
                contestants[name] = lambda name=name, reuse=reuse, sweep=sweep: compete(  # type: ignore[misc]
                    name, "clove_executor.py", sweep, home=home, reuse=reuse
                )
        found = in_turns(bench.rounds, contestants, bench.say)
    for mode in ("fresh", "reuse"):
        check_alike(found[f"{mode}, clean"])
        rows += _ours(mode, found[f"{mode}, clean"], found[f"{mode}, faulty"], faulty)
    return [*rows, *_others(bench, faulty)]


def _ours(mode: str, clean: list[Finish], faulty: list[Finish], sweep: Sweep) -> list[Row]:
    right = dict(clean[0].scores())
    for n in sweep.faults:
        right.pop(n)
    completed = [len(f.results) if f.scores() == right else -1 for f in faulty]
    certificates = [sum(_is_right(failure, sweep) for failure in f.failures) for f in faulty]
    expected = sweep.trials - len(sweep.faults)
    note = "each the same as without the faults" if -1 not in completed else "-1: not the results of the clean run"
    return [
        Row(f"results, {mode}", f"of {sweep.trials}", Figure.of(completed), must=exactly(expected), note=note),
        Row(f"correct certificates, {mode}", "", Figure.of(certificates), must=exactly(len(sweep.faults)),
            note="; ".join(f"#{x['n']}: {x['cause'] or x['error']}" for x in faulty[0].failures)),
        Row(f"whole program, {mode}", "s", Figure.of([f.whole_s for f in faulty]),
            Figure.of([f.whole_s for f in clean]), "without the faults", at_most(1.05), None, "ratio"),
    ]  # fmt: skip


def _is_right(failure: dict[str, object], sweep: Sweep) -> bool:
    fault = sweep.faults.get(int(str(failure["n"])))
    if fault == "segfault":
        return failure["cause"] == "signal" and failure["signal"] == signal.SIGSEGV
    return fault == "leak" and failure["cause"] == "oom"


def _others(bench: Bench, sweep: Sweep) -> list[Row]:
    one = Sweep(sweep.trials, sweep.scale, 1, sweep.faults)
    peers = [
        ("one after the other", "in_one_process.py", one),
        ("threads", "in_one_process.py", sweep),
        ("warm-fork loop", "warm_fork.py", sweep),
        ("ProcessPoolExecutor", "process_pool.py", sweep),
        ("loky", "loky_pool.py", sweep),
        ("ray", "ray_tasks.py", sweep),
    ]
    rows = []
    for name, script, what in peers:
        module = {"loky": "loky", "ray": "ray"}.get(name)
        if module and importlib.util.find_spec(module) is None:
            rows.append(Row(f"{name} completes", f"of {sweep.trials}", note=f"{module} isn't installed"))
            continue
        bench.say(name)
        f = compete(name, script, what)
        errors = sorted({failure["error"] for failure in f.failures})
        how = f.died or (f"{len(f.failures)} failed: {', '.join(errors)}" if errors else "all of them")
        note = f"{how}; {f.whole_s:.1f} s; MemAvailable fell by {f.available_fall_bytes / 2**20:.0f} MiB"
        completed = Figure.of([f.completed])
        rows.append(Row(f"{name} completes", f"of {sweep.trials}", None, completed, name, note=note))
    return rows
