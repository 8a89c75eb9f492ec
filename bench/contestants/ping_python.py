"""Ours, from Python: `kernel.ping`, one after the other."""

from __future__ import annotations

import json
import sys
import time

from cloveos import Client


def main() -> None:
    """The socket and how many are the arguments; times go as JSON, in nanoseconds."""
    with Client(sys.argv[1]) as client:
        for _ in range(200):
            client.call("kernel.ping", {})
        ns = []
        for _ in range(int(sys.argv[2])):
            began = time.perf_counter_ns()
            client.call("kernel.ping", {})
            ns.append(time.perf_counter_ns() - began)
    print(json.dumps(ns))


if __name__ == "__main__":
    main()
