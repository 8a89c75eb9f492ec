"""Peer: loky, the pool behind joblib."""

from __future__ import annotations

from concurrent.futures import as_completed

from loky import ProcessPoolExecutor

import workload
from speech import Orders, Tally, emit


def main() -> None:
    """Its workers are fresh interpreters, which warm up in their initializer."""
    orders = Orders.given()
    tally = Tally()
    workload.no_core_files()
    emit("begin")
    cap = orders.memory_bytes if orders.faults else 0
    with ProcessPoolExecutor(orders.jobs, initializer=_start, initargs=(cap,)) as pool:
        futures = {pool.submit(workload.trial, *call): call[0] for call in orders.calls()}
        for future in as_completed(futures):
            try:
                tally.done(future.result())
            except Exception as error:
                tally.failed(futures[future], error)
        tally.end()


def _start(cap_bytes: int) -> None:
    workload.warm()
    if cap_bytes:
        workload.cap_memory(cap_bytes)


if __name__ == "__main__":
    main()
