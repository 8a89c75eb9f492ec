"""Ours as a command: the same experiments through `clove sweep run`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from contest import Finish, Sweep, carry_out
from kernel_home import KernelHome
from places import CONTESTANTS


def run_sweep(name: str, home: KernelHome, sweep: Sweep, *, sum_trees: bool) -> Finish:
    """The submitting process is the command line; results are read afterwards, outside of the time."""
    with tempfile.TemporaryDirectory(prefix="clove-bench-") as folder:
        configurations = Path(folder) / "configurations.jsonl"
        lines = [json.dumps({"n": n, "scale": sweep.scale}) + "\n" for n in range(sweep.trials)]
        configurations.write_text("".join(lines))
        command = [
            str(home.places.clove), "sweep", "run", str(CONTESTANTS / "sweep_script.py"), "--list", str(configurations),
            "--python", sys.executable, "--jobs", str(sweep.jobs), "--memory", f"{sweep.memory_bytes >> 20}m",
            "--timeout", "10m", "--retry-deaths", "0",
        ]  # fmt: skip
        finish, code, errors = carry_out(name, command, home.env, home, sum_trees)
    if code != 0:
        finish.died = f"it ended with code {code}: {errors.strip()[-300:]}"
        return finish
    finish.sweep_s = finish.whole_s
    finish.results = [task["result"] for task in json.loads(home.clove("sweep", "results", "last", "--json"))]
    home.stop()
    return finish
