"""Peers without any boundary: one trial after the other (when `jobs` is 1), or in threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed

import workload
from speech import Orders, Tally, emit
from warmed import warm_parent


def main() -> None:
    """Each result is told at once: this process may not live to tell it later."""
    orders = Orders.given()
    tally = Tally()
    warm_parent()
    if orders.faults:
        workload.cap_memory(orders.memory_bytes)
    emit("begin")
    if orders.jobs == 1:
        for call in orders.calls():
            try:
                _tell(tally, workload.trial(*call))
            except Exception as error:
                tally.failed(call[0], error)
    else:
        with ThreadPoolExecutor(orders.jobs) as threads:
            futures = {threads.submit(workload.trial, *call): call[0] for call in orders.calls()}
            for future in as_completed(futures):
                try:
                    _tell(tally, future.result())
                except Exception as error:
                    tally.failed(futures[future], error)
    tally.end()


def _tell(tally: Tally, result: dict[str, float]) -> None:
    tally.done(result)
    emit("progress", done=len(tally.results))


if __name__ == "__main__":
    main()
