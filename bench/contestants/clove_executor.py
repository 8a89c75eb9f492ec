"""Ours: `cloveos.Executor`, in the place of a process pool."""

from __future__ import annotations

import workload
from cloveos import Executor
from speech import Orders, Tally, emit
from submitting import submit_all


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
        submit_all(executor, orders, tally)


if __name__ == "__main__":
    main()
