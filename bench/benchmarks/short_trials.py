"""2,000 short experiments, a fresh isolated process for each, beside loops and pools without isolation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from bench import Bench
from clove_sweep import run_sweep
from contest import Finish, Sweep, calibrated, check_alike, compete, in_turns
from figures import Figure, Row, at_least, at_most, percentile
from kernel_home import KernelHome

TITLE = "2,000 trials of 50-80 ms of CPU each"
MIB = 1 << 20
#: Tasks that one isolated worker takes in a row, in the rows with `reuse`: more than there are.
REUSE = 100_000
CPU_MS = 65

FORK, POOL, POOL_PLAIN = "warm-fork loop", "ProcessPoolExecutor", "ProcessPoolExecutor with its own malloc"
FRESH, REUSED, SWEEP = "Executor", "Executor, reuse", "clove sweep run"

Found = Mapping[str, list[Finish]]


def run(bench: Bench) -> list[Row]:
    """First for time; then, on fewer trials, for memory: adding up pages would cost the short-lived ones time."""
    sweep = Sweep(trials=bench.size(2000, 24), scale=0.2, jobs=bench.jobs)
    if not bench.quick:
        bench.say("finding the size of a trial")
        sweep = calibrated(sweep, CPU_MS)
    with bench.home() as home:
        found = in_turns(bench.rounds, _contestants(home, sweep, sum_trees=bench.quick), bench.say)
        weighed = found
        if not bench.quick:
            bench.say("now for memory")
            few = dataclasses.replace(sweep, trials=300)
            weighed = in_turns(bench.rounds, _contestants(home, few, sum_trees=True), bench.say)
    for once in (found, weighed):
        check_alike([f for finishes in once.values() for f in finishes])
    return [*_walls(found), *_insides(found), *_cpu_use(found), *_memory(weighed)]


def _contestants(home: KernelHome, sweep: Sweep, sum_trees: bool) -> dict[str, Callable[[], Finish]]:
    return {
        POOL: lambda: compete(POOL, "process_pool.py", sweep, sum_trees=sum_trees),
        FRESH: lambda: compete(FRESH, "clove_executor.py", sweep, home=home, sum_trees=sum_trees),
        FORK: lambda: compete(FORK, "warm_fork.py", sweep, sum_trees=sum_trees),
        REUSED: lambda: compete(REUSED, "clove_executor.py", sweep, home=home, reuse=REUSE, sum_trees=sum_trees),
        SWEEP: lambda: run_sweep(SWEEP, home, sweep, sum_trees=sum_trees),
        POOL_PLAIN: lambda: compete(POOL_PLAIN, "process_pool.py", sweep, sum_trees=sum_trees, own_malloc=True),
    }


def _whole(found: Found, name: str) -> Figure:
    return Figure.of([f.whole_s for f in found[name]])


def _sweep(found: Found, name: str) -> Figure:
    return Figure.of([f.sweep_s for f in found[name]])


def _walls(found: Found) -> list[Row]:
    trials = found[POOL][0].completed
    wall = f"{trials} trials, whole program"
    ours = {name: _whole(found, name) for name in (FRESH, REUSED, SWEEP)}
    fork, pool = _whole(found, FORK), _whole(found, POOL)
    inner = "without its start and imports"
    return [
        Row(f"{wall}, fresh: Executor", "s", ours[FRESH], fork, FORK, at_most(1.10), None, "ratio"),
        Row(f"{wall}, fresh: Executor", "s", ours[FRESH], pool, POOL, at_most(1.45), at_most(1.15), "ratio"),
        Row(f"{wall}, fresh: clove sweep run", "s", ours[SWEEP], fork, FORK, at_most(1.10), None, "ratio"),
        Row(f"{wall}, fresh: clove sweep run", "s", ours[SWEEP], pool, POOL, at_most(1.45), at_most(1.15), "ratio"),
        Row(f"{wall}, reuse: Executor", "s", ours[REUSED], pool, POOL, at_most(1.05), at_most(0.999), "ratio"),
        Row(f"{wall}, fresh: Executor", "s", ours[FRESH], _whole(found, POOL_PLAIN), POOL_PLAIN),
        Row(f"the same {inner}, fresh", "s", _sweep(found, FRESH), _sweep(found, FORK), FORK,
            note="from the making of executor or pool to the last result; ours builds its template in it"),
        Row(f"the same {inner}, fresh", "s", _sweep(found, FRESH), _sweep(found, POOL), POOL),
        Row(f"the same {inner}, reuse", "s", _sweep(found, REUSED), _sweep(found, POOL), POOL),
    ]  # fmt: skip


def _insides(found: Found) -> list[Row]:
    def cpu(name: str) -> Figure:
        return Figure.of([f.trial_cpu_ms for f in found[name]])

    def faults(name: str) -> Figure:
        return Figure.of([f.trial_faults for f in found[name]])

    each = [1000 * r["cpu_s"] for f in found[POOL] for r in f.results]
    span = f"in the pool from {percentile(each, 5):.0f} to {percentile(each, 95):.0f} ms (5th to 95th percentile)"
    return [
        Row("CPU of one trial in the pool", "ms", cpu(POOL), note=span),
        Row("CPU of one trial, fresh", "ms", cpu(FRESH), cpu(POOL), POOL, note="its process's end isn't in it"),
        Row("CPU of one trial, fresh", "ms", cpu(FRESH), cpu(FORK), FORK),
        Row("CPU of one trial, reuse", "ms", cpu(REUSED), cpu(POOL), POOL),
        Row("minor page faults of one trial, fresh", "", faults(FRESH), faults(FORK), FORK),
        Row("minor page faults of one trial, reuse", "", faults(REUSED), faults(POOL), POOL),
    ]


def _cpu_use(found: Found) -> list[Row]:
    def use(name: str) -> Figure:
        return Figure.of([100 * f.cpu_use for f in found[name]])

    note = "of all CPUs, from the first result to the last; whatever else runs on the machine counts too"
    return [
        Row("CPU use during the sweep, fresh", "%", use(FRESH), use(POOL), POOL, at_least(95), note=note),
        Row("CPU use during the sweep, reuse", "%", use(REUSED), use(POOL), POOL, at_least(95)),
    ]


def _memory(found: Found) -> list[Row]:
    def peak(name: str) -> Figure:
        return Figure.of([f.peak_bytes / MIB for f in found[name]])

    def fall(name: str) -> Figure:
        return Figure.of([f.available_fall_bytes / MIB for f in found[name]])

    note = "kernel, launcher, templates, embryos, agents and the submitting process; of the pool its whole tree"
    rows = [
        Row(f"peak memory, fresh: {name}", "MiB", peak(name), peak(POOL), POOL, at_most(0.90), at_most(0.67), "ratio")
        for name in (FRESH, SWEEP)
    ]
    rows[0] = dataclasses.replace(rows[0], note=note)
    rows += [Row("peak memory, reuse: Executor", "MiB", peak(REUSED), peak(POOL), POOL)]
    rows += [Row("peak memory, fresh: Executor", "MiB", peak(FRESH), peak(FORK), FORK)]
    rows += [Row("peak memory, fresh: Executor", "MiB", peak(FRESH), peak(POOL_PLAIN), POOL_PLAIN)]
    rows += [
        Row(f"fall of MemAvailable: {name}", "MiB", fall(name), fall(POOL), POOL) for name in (FRESH, SWEEP, REUSED)
    ]
    return rows
