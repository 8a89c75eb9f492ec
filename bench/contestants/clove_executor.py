"""Ours: `cloveos.Executor`, in the place of a process pool."""

from __future__ import annotations

from concurrent.futures import as_completed

import workload
from cloveos import Executor
from speech import Orders, Tally, emit


def main() -> None:
    """All trials submitted at once; results as they come."""
    orders = Orders.given()
    tally = Tally()
    emit("begin")
    with Executor(
        orders.jobs,
        memory=orders.memory_bytes,
        timeout=600,
        setup=workload.warm,
        reuse=orders.reuse,
    ) as executor:
        futures = {executor.submit(workload.trial, *call): call[0] for call in orders.calls()}
        for future in as_completed(futures):
            try:
                tally.done(future.result())
            except Exception as error:
                tally.failed(futures[future], error)
        tally.end()


if __name__ == "__main__":
    main()
