"""From submitting a call to its first instruction in a fresh isolated Python that has scikit-learn loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from bench import Bench
from figures import Figure, Row, at_most, percentile
from kernel_home import KernelHome
from places import CONTESTANTS

TITLE = "activation of an embryo"
#: Of each agent: two hundred at a time have to fit.
MEMORY_BYTES = 32 << 20
US = 1000.0


def run(bench: Bench) -> list[Row]:
    """Rust and Python in turns."""
    singles = bench.size(500, 10)
    sustained = bench.size(1000, 20)
    bursts = [{"calls": 8, "times": bench.size(40, 1)}, {"calls": bench.size(200, 20), "times": bench.size(5, 1)}]
    rust, python = [], []
    with bench.home() as home:
        spec = json.loads(_run(home, "session_for_rust.py", str(home.folder / "call"), str(MEMORY_BYTES)))
        orders = {
            "spec": spec, "payload": str(home.folder / "call"), "singles": singles, "chained": singles,
            "bursts": bursts, "sustained": sustained, "jobs": bench.jobs,
        }  # fmt: skip
        for round_ in range(bench.rounds):
            bench.say(f"round {round_ + 1} of {bench.rounds}: Rust")
            rust.append(home.rust({"activation": orders}))
            bench.say(f"round {round_ + 1} of {bench.rounds}: Python")
            counts = {"singles": singles, "sustained": sustained, "jobs": bench.jobs}
            python.append(json.loads(_run(home, "activation_python.py", json.dumps(counts))))
    return [*_singles(rust, python), *_bursts(rust), *_rates(rust, python, sustained)]


def _run(home: KernelHome, script: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, CONTESTANTS / script, *args],
        env=home.env, cwd=home.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def _at(found: list[dict[str, Any]], name: str, percent: float, unit: float = US) -> Figure:
    return Figure.of([percentile(once[name], percent) / unit for once in found])


def _singles(rust: list[dict[str, Any]], python: list[dict[str, Any]]) -> list[Row]:
    pool = "ProcessPoolExecutor, a used process without walls"
    return [
        Row("Rust, p50", "us", _at(rust, "single_ns", 50), must=at_most(150), aim=at_most(100)),
        Row("Rust, p99", "us", _at(rust, "single_ns", 99)),
        Row("Python, p50", "us", _at(python, "single_ns", 50), _at(python, "pool_ns", 50), pool,
            at_most(400), at_most(250)),
        Row("Python, p99", "us", _at(python, "single_ns", 99), _at(python, "pool_ns", 99), pool),
        Row("each call as soon as the one before is back, p50", "ms", _at(rust, "chained_ns", 50, 1e6),
            note="from Rust, to the first instruction: what is left of making an embryo is in it"),
        Row("until the next embryo is ready, p50", "ms", _at(rust, "refill_ns", 50, 1e6),
            note="from the submitting of one call until `template.list` has another embryo"),
        Row("until the next embryo is ready, p99", "ms", _at(rust, "refill_ns", 99, 1e6)),
    ]  # fmt: skip


def _bursts(rust: list[dict[str, Any]]) -> list[Row]:
    rows = []
    for calls in dict.fromkeys(b["calls"] for b in rust[0]["bursts"]):
        each = [[b["ns"] for b in once["bursts"] if b["calls"] == calls] for once in rust]
        p50 = Figure.of([percentile([ns for burst in once for ns in burst], 50) / 1e6 for once in each])
        p99 = Figure.of([percentile([ns for burst in once for ns in burst], 99) / 1e6 for once in each])
        last = Figure.of([percentile([max(burst) for burst in once], 50) / 1e6 for once in each])
        note = "of more than 64 calls, the rest wait for embryos to be made" if calls > 64 else ""
        rows += [
            Row(f"burst of {calls}: any call, p50", "ms", p50, note=note),
            Row(f"burst of {calls}: any call, p99", "ms", p99),
            Row(f"burst of {calls}: the last call, p50", "ms", last),
        ]
    return rows


def _rates(rust: list[dict[str, Any]], python: list[dict[str, Any]], calls: int) -> list[Row]:
    def rate(found: list[dict[str, Any]]) -> Figure:
        return Figure.of([calls / (once["sustained_ns"] / 1e9) for once in found])

    return [
        Row("sustained, Rust", "calls/s", rate(rust), note=f"{calls} empty calls pushed at once, a fresh process each"),
        Row("sustained, Python", "calls/s", rate(python)),
    ]
