"""How all contestants with the interface of `concurrent.futures` are given their trials."""

from __future__ import annotations

from concurrent.futures import Executor, as_completed

import workload
from speech import Orders, Tally


def submit_all(executor: Executor, orders: Orders, tally: Tally) -> None:
    """All trials at once, to any of the executors; their results as they come."""
    futures = {executor.submit(workload.trial, *call): call[0] for call in orders.calls()}
    for future in as_completed(futures):
        try:
            tally.done(future.result())
        except Exception as error:
            tally.failed(futures[future], error)
    tally.end()
