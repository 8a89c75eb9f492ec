"""Ours, from Python: from `submit` to the first instruction of the call, an embryo standing ready."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import workload
from cloveos import Client, Executor
from warmed import warm_parent

MEMORY_BYTES = 64 << 20
PATIENCE_S = 60.0
REST_S = 0.02
#: With fewer jobs than CPUs, experiments get more threads each, and scikit-learn's OpenMP keeps those that the warm-up
#: has started: a template with threads is refused.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def moment(result: bytes) -> int:
    """The nanoseconds in what `workload.first_instruction` returns."""
    return int(result.removeprefix(b"at=").removesuffix(b";"))


def wait_for_embryo(client: Client) -> None:
    """Until one stands ready."""
    end = time.monotonic() + PATIENCE_S
    while not sum(t["embryos"] for t in client.call("template.list", {})[0]["templates"]):
        if time.monotonic() > end:
            raise TimeoutError("no embryo became ready")
        time.sleep(0.0002)
    # It is listed when it has been verified; then it still has to make itself at home, and to ask for a task.
    time.sleep(REST_S)


def ours(singles: int, sustained: int, jobs: int) -> dict[str, object]:
    """One at a time, then as many as go."""
    single_ns = []
    with Client() as client, Executor(1, memory=MEMORY_BYTES, setup=workload.warm, env=ONE_THREAD) as executor:
        executor.submit(workload.first_instruction).result()
        for _ in range(singles):
            wait_for_embryo(client)
            began = time.monotonic_ns()
            future = executor.submit(workload.first_instruction)
            single_ns.append(moment(future.result()) - began)
    with Executor(jobs, memory=MEMORY_BYTES, setup=workload.warm, env=ONE_THREAD) as executor:
        executor.submit(workload.first_instruction).result()
        began = time.monotonic_ns()
        for call in [executor.submit(workload.nothing, n) for n in range(sustained)]:
            call.result()
        sustained_ns = time.monotonic_ns() - began
    return {"single_ns": single_ns, "sustained_ns": sustained_ns}


def pool(singles: int) -> list[int]:
    """The same with a process that is used again and again, without any wall."""
    warm_parent()
    found = []
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as executor:
        executor.submit(workload.first_instruction).result()
        for _ in range(singles):
            time.sleep(REST_S)
            began = time.monotonic_ns()
            found.append(moment(executor.submit(workload.first_instruction).result()) - began)
    return found


def main() -> None:
    """Counts come as JSON; times go as JSON, in nanoseconds."""
    orders = json.loads(sys.argv[1])
    found = ours(orders["singles"], orders["sustained"], orders["jobs"])
    print(json.dumps({**found, "pool_ns": pool(orders["singles"])}))


if __name__ == "__main__":
    main()
