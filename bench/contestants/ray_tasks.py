"""Peer: ray on this machine alone, each trial a task that isn't tried again."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import ray

import workload
from speech import Orders, Tally, emit


def main() -> None:
    """Its workers are fresh interpreters that take many tasks."""
    orders = Orders.given()
    tally = Tally()
    workload.no_core_files()
    # Its workers would else run at a lower priority than everything beside them.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - ray spells it so
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    emit("begin")
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        ray.init(
            num_cpus=orders.jobs, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=folder
        )
        try:
            cap = orders.memory_bytes if orders.faults else 0
            remote = ray.remote(num_cpus=1, max_retries=0)(_task)
            waiting: dict[Any, int] = {remote.remote(cap, *call): call[0] for call in orders.calls()}
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1)
                n = waiting.pop(ready[0])
                try:
                    tally.done(ray.get(ready[0]))
                except Exception as error:
                    tally.failed(n, error)
            tally.end()
        finally:
            ray.shutdown()


def _task(cap_bytes: int, n: int, scale: float, fault: str) -> dict[str, float]:
    if cap_bytes and fault:
        # Here, not at the worker's start: its many threads count as well.
        workload.cap_memory(cap_bytes)
    return workload.trial(n, scale, fault)


if __name__ == "__main__":
    main()
