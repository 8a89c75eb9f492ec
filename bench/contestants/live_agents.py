"""Ours: as many agents alive at once as there are calls; each has numpy, a connection, and nothing more to do."""

from __future__ import annotations

import json
import signal
import sys
from concurrent.futures import FIRST_COMPLETED, wait

import numpy as np

import workload
from cloveos import Client, Executor


def hold(_: int) -> None:
    """A numpy call, a syscall on a connection of its own, a line of output; then it stays until it is killed."""
    assert float(np.dot(workload.DATA.x[0], workload.DATA.x[1])) != 0.0
    with Client() as client:
        client.call("kernel.ping", {})
        print("ready", flush=True)
        while True:
            signal.pause()


def main() -> None:
    """Submits, then waits to be ended: its agents end with it."""
    orders = json.loads(sys.argv[1])
    executor = Executor(orders["agents"], memory=orders["memory_bytes"], setup=workload.warm)
    agents = [executor.submit(hold, n) for n in range(orders["agents"])]
    # None of them returns: the first that ends has died, and says of what.
    ended, _ = wait(agents, return_when=FIRST_COMPLETED)
    ended.pop().result()


if __name__ == "__main__":
    main()
