"""Peer: loky, the pool behind joblib."""

from __future__ import annotations

from loky import ProcessPoolExecutor

import workload
from speech import Orders, Tally, emit
from submitting import submit_all


def main() -> None:
    """Its workers are fresh interpreters, which warm up in their initializer."""
    orders = Orders.given()
    tally = Tally()
    workload.no_core_files()
    emit("begin")
    cap = orders.memory_bytes if orders.faults else 0
    with ProcessPoolExecutor(orders.jobs, initializer=_start, initargs=(cap,)) as pool:
        submit_all(pool, orders, tally)


def _start(cap_bytes: int) -> None:
    workload.warm()
    if cap_bytes:
        workload.cap_memory(cap_bytes)


if __name__ == "__main__":
    main()
