"""Peer: a plain loop that forks a warmed parent for each trial, without any isolation; results come over pipes."""

from __future__ import annotations

import os
import pickle
import selectors

import workload
from speech import Orders, Tally, emit
from warmed import warm_parent


def main() -> None:
    """As many children at a time as there are jobs; the next is forked when one has ended."""
    orders = Orders.given()
    tally = Tally()
    warm_parent()
    emit("begin")
    waiting = iter(orders.calls())
    running: dict[int, tuple[int, int, bytearray]] = {}
    selector = selectors.DefaultSelector()

    def start() -> None:
        call = next(waiting, None)
        if call is None:
            return
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _child(writer, call, orders)
        os.close(writer)
        running[reader] = (pid, call[0], bytearray())
        selector.register(reader, selectors.EVENT_READ)

    for _ in range(orders.jobs):
        start()
    while running:
        for key, _ in selector.select():
            reader = key.fd
            pid, n, data = running[reader]
            piece = os.read(reader, 1 << 16)
            data += piece
            if piece:
                continue
            selector.unregister(reader)
            os.close(reader)
            del running[reader]
            os.waitpid(pid, 0)
            start()
            if data:
                tally.done(pickle.loads(data))
            else:
                tally.failed(n, RuntimeError())
    tally.end()


def _child(writer: int, call: tuple[int, float, str], orders: Orders) -> None:
    code = 1
    try:
        if orders.faults:
            workload.cap_memory(orders.memory_bytes)
        os.write(writer, pickle.dumps(workload.trial(*call)))
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
