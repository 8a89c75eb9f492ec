"""`clove run -- /bin/true` as one types it: the whole command, with and without a kernel that runs already."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence

from bench import Bench
from figures import Figure, Row, at_most, percentile
from peers import bwrap

TITLE = "clove run -- /bin/true, whole command"


def run(bench: Bench) -> list[Row]:
    """Each round: without a kernel, with one, and the others."""
    clove = [str(bench.places.clove), "run", "--", "/bin/true"]
    rounds: list[list[list[float]]] = []
    has_bwrap = shutil.which("bwrap") is not None
    with bench.home() as home:
        for round_ in range(bench.rounds):
            bench.say(f"round {round_ + 1} of {bench.rounds}")
            of_round: list[list[float]] = [[], [], [], []]
            for _ in range(bench.size(20, 2)):
                home.stop()
                of_round[0].append(_timed(clove, home.env))
                _timed(clove, home.env)
                of_round[1] += [_timed(clove, home.env) for _ in range(3)]
                if has_bwrap:
                    of_round[2] += [_timed(bwrap(bench.places.programs, ["/bin/true"]), home.env) for _ in range(3)]
                of_round[3] += [_timed(["/bin/true"], home.env) for _ in range(3)]
            rounds.append(of_round)
    cold, warm, peer, plain = range(4)

    def at(which: int, percent: float) -> Figure:
        return Figure.of([percentile(of_round[which], percent) for of_round in rounds])

    beside = at(peer, 50) if has_bwrap else None
    return [
        Row("no kernel running, p50", "ms", at(cold, 50), must=at_most(80), note="it starts one, which stays"),
        Row("no kernel running, worst", "ms", at(cold, 100)),
        Row("with a kernel, p50", "ms", at(warm, 50), beside, "bwrap ... /bin/true", at_most(15)),
        Row("with a kernel, worst", "ms", at(warm, 100)),
        Row("with a kernel, p50", "ms", at(warm, 50), at(plain, 50), "plain /bin/true"),
    ]


def _timed(command: Sequence[str], env: Mapping[str, str]) -> float:
    """From the spawn to the end, in milliseconds."""
    program = shutil.which(command[0], path=env["PATH"]) or command[0]
    began = time.monotonic_ns()
    pid = os.posix_spawn(program, list(command), dict(env))
    _, status = os.waitpid(pid, 0)
    took = (time.monotonic_ns() - began) / 1e6
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}")
    return took
