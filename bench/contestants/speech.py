"""How a contestant talks with the runner: orders as JSON in its argument, events as JSON on standard output."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import Any


@dataclasses.dataclass(frozen=True)
class Orders:
    """What to run."""

    trials: int
    scale: float
    jobs: int
    #: Position of a faulty trial -> `segfault` or `leak`.
    faults: dict[int, str]
    #: Memory limit of one trial.
    memory_bytes: int
    reuse: int

    @classmethod
    def given(cls) -> Orders:
        """From the command line."""
        d = json.loads(sys.argv[1])
        d["faults"] = {int(n): fault for n, fault in d["faults"].items()}
        return cls(**d)

    def calls(self) -> list[tuple[int, float, str]]:
        """The arguments of `workload.trial`, in order."""
        return [(n, self.scale, self.faults.get(n, "")) for n in range(self.trials)]


def emit(event: str, **more: Any) -> None:
    """One line, with the moment it was true."""
    sys.stdout.write(json.dumps({"event": event, "at": time.monotonic(), **more}) + "\n")
    sys.stdout.flush()


class Tally:
    """What has come back so far."""

    def __init__(self) -> None:
        self.results: list[dict[str, float]] = []
        self.failures: list[dict[str, Any]] = []

    def done(self, result: dict[str, float]) -> None:
        """A trial's result has arrived."""
        self.results.append(result)
        if len(self.results) == 1:
            emit("first")

    def failed(self, n: int, error: BaseException) -> None:
        """A trial has none; what its death certificate says, if it has one."""
        certificate = getattr(error, "certificate", None)
        self.failures.append({
            "n": n,
            "error": type(error).__name__,
            "cause": getattr(certificate, "cause", ""),
            "signal": getattr(certificate, "signal", None),
        })  # fmt: skip

    def end(self) -> None:
        """After the last result, before anything is shut down."""
        emit("last", results=self.results, failures=self.failures)
