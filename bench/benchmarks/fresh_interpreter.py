"""The short experiments beside a new interpreter for each of them, which has to load everything anew."""

from __future__ import annotations

from bench import Bench
from benchmarks.short_trials import CPU_MS
from contest import Sweep, calibrated, check_alike, compete, in_turns
from figures import Figure, Row, at_most

TITLE = "200 short trials against a fresh interpreter for each"
OURS, PEER = "Executor", "a fresh interpreter each"


def run(bench: Bench) -> list[Row]:
    """Ours and the other in turns. At least ten times faster is a ratio of at most 0.1."""
    sweep = Sweep(trials=bench.size(200, 4), scale=0.2, jobs=bench.jobs)
    if not bench.quick:
        bench.say("finding the size of a trial")
        sweep = calibrated(sweep, CPU_MS)
    with bench.home() as home:
        contestants = {
            OURS: lambda: compete(OURS, "clove_executor.py", sweep, home=home),
            PEER: lambda: compete(PEER, "fresh_interpreter.py", sweep),
        }
        found = in_turns(bench.rounds, contestants, bench.say)
    check_alike([f for finishes in found.values() for f in finishes])
    whole = {name: Figure.of([f.whole_s for f in finishes]) for name, finishes in found.items()}
    note = f"{whole[PEER].median / whole[OURS].median:.1f} times as fast, template and imports included"
    return [
        Row(f"{sweep.trials} trials, whole program", "s", whole[OURS], whole[PEER], PEER, at_most(0.1), None, "ratio",
            note),
    ]  # fmt: skip
