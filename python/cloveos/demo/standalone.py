"""Runs the experiments as a plain Python script would: one after the other, or in a ProcessPoolExecutor.

It is a program of its own, started by the demo in the experiments' environment; it reads its orders as JSON
from standard input and writes one JSON object per line for whatever happens.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import resource
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from types import ModuleType
from typing import Any

# Set before the pool forks, so that its workers share both copy-on-write.
EXPERIMENT: Any = None
SHARED: Any = None


def emit(**what: Any) -> None:
    """One line, in one write: a pipe keeps writes of up to 4,096 bytes whole, whoever else is writing."""
    os.write(1, json.dumps(what).encode() + b"\n")


def load(path: str) -> ModuleType:
    """The experiment script as a module."""
    spec = importlib.util.spec_from_file_location("experiment", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} isn't a Python script")
    module = importlib.util.module_from_spec(spec)
    sys.modules["experiment"] = module
    spec.loader.exec_module(module)
    return module


def one(position: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """One experiment, in whichever process this is."""
    emit(event="start", position=position, pid=os.getpid())
    try:
        result: dict[str, Any] = EXPERIMENT.run(config, SHARED)
    finally:
        emit(event="stop", position=position)
    return result


def sequential(configs: list[dict[str, Any]]) -> None:
    """As a first script does it: an exception ends it, and so does anything worse."""
    for position, config in enumerate(configs):
        emit(event="done", position=position, result=one(position, config))


def pool(configs: list[dict[str, Any]], jobs: int) -> None:
    """As a careful script does it: an experiment that raises is noted, and the others go on."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as executor:
        futures: dict[Future[dict[str, Any]], int] = {
            executor.submit(one, position, config): position for position, config in enumerate(configs)
        }
        for future in as_completed(futures):
            try:
                emit(event="done", position=futures[future], result=future.result())
            except BrokenProcessPool as error:
                emit(event="broken", position=futures[future], error=str(error))
            except Exception as error:
                emit(event="raised", position=futures[future], error=type(error).__name__)


def main() -> None:
    """Take the orders, load everything once, run."""
    global EXPERIMENT, SHARED
    orders = json.load(sys.stdin)
    cap = int(orders["memory_bytes"])
    # The strongest cap that plain Python has without root: private writable memory of each process.
    # RLIMIT_AS would count mapped libraries too, and RLIMIT_RSS has done nothing since Linux 2.4.
    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    EXPERIMENT = load(orders["script"])
    SHARED = EXPERIMENT.setup()
    emit(event="ready")
    if orders["mode"] == "sequential":
        sequential(orders["configs"])
    else:
        pool(orders["configs"], int(orders["jobs"]))
    emit(event="end")


if __name__ == "__main__":
    main()
