"""Peer: a new Python for each experiment, as a shell loop or a job scheduler starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from speech import Orders, Tally, emit

_WORKLOAD = str(Path(__file__).with_name("workload.py"))


def main() -> None:
    """As many at a time as there are jobs."""
    orders = Orders.given()
    tally = Tally()
    emit("begin")
    with ThreadPoolExecutor(orders.jobs) as threads:
        futures = {threads.submit(_one, n, scale): n for n, scale, _ in orders.calls()}
        for future in as_completed(futures):
            tally.done(future.result())
    tally.end()


def _one(n: int, scale: float) -> dict[str, float]:
    done = subprocess.run([sys.executable, _WORKLOAD, str(n), str(scale)], stdout=subprocess.PIPE, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    main()
