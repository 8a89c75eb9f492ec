"""Experiments of a second: what a fresh isolated process costs when the work isn't short."""

from __future__ import annotations

from bench import Bench
from contest import Sweep, calibrated, check_alike, compete, in_turns
from figures import Figure, Row, at_most

TITLE = "200 trials of 1 s, a fresh process each"
OURS, POOL = "Executor", "ProcessPoolExecutor"


def run(bench: Bench) -> list[Row]:
    """Ours and the pool in turns."""
    sweep = Sweep(trials=bench.size(200, 8), scale=1.0, jobs=bench.jobs)
    if not bench.quick:
        bench.say("finding the size of a trial")
        sweep = calibrated(sweep, 1000)
    with bench.home() as home:
        contestants = {
            POOL: lambda: compete(POOL, "process_pool.py", sweep),
            OURS: lambda: compete(OURS, "clove_executor.py", sweep, home=home),
        }
        found = in_turns(bench.rounds, contestants, bench.say)
    check_alike([f for finishes in found.values() for f in finishes])
    whole = {name: Figure.of([f.whole_s for f in finishes]) for name, finishes in found.items()}
    cpu = {name: Figure.of([f.trial_cpu_ms for f in finishes]) for name, finishes in found.items()}
    what = f"{sweep.trials} trials, whole program"
    return [
        Row(what, "s", whole[OURS], whole[POOL], POOL, at_most(1.04), None, "ratio"),
        Row("CPU of one trial", "ms", cpu[OURS], cpu[POOL], POOL),
    ]
