"""Peer: `concurrent.futures.ProcessPoolExecutor`, forked from a warmed parent."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import workload
from speech import Orders, Tally, emit
from submitting import submit_all
from warmed import warm_parent


def main() -> None:
    """All trials submitted at once; results as they come."""
    orders = Orders.given()
    tally = Tally()
    warm_parent()
    emit("begin")
    cap = partial(workload.cap_memory, orders.memory_bytes) if orders.faults else None
    with ProcessPoolExecutor(orders.jobs, mp_context=multiprocessing.get_context("fork"), initializer=cap) as pool:
        submit_all(pool, orders, tally)


if __name__ == "__main__":
    main()
