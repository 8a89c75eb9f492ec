"""Functions that the tests run in workers."""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import time
from typing import Any, List, NamedTuple

state: List[Any] = []


class Point(NamedTuple):
    x: int
    y: int


class OwnError(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b


def is_prime(n: int) -> bool:
    """From the documentation of concurrent.futures."""
    if n < 2:
        return False
    if n == 2:
        return True
    if n % 2 == 0:
        return False
    sqrt_n = math.floor(math.sqrt(n))
    return all(n % i for i in range(3, sqrt_n + 1, 2))


def add(a: int, b: int = 0) -> int:
    return a + b


def pid() -> int:
    return os.getpid()


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def echo(value: Any) -> Any:
    return value


def raise_value_error(text: str) -> None:
    raise ValueError(text)


def raise_own() -> None:
    raise OwnError(1, 2)


def open_file(path: str) -> str:
    with open(path) as f:
        return f.read()


def crash() -> None:
    import faulthandler

    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def crash_once(folder: str) -> str:
    if os.environ["CLOVE_ATTEMPT"] == "1":
        crash()
    return os.environ["CLOVE_ATTEMPT"]


def leave(code: Any) -> None:
    sys.exit(code)


def interrupt() -> None:
    raise KeyboardInterrupt


def make_point() -> Point:
    return Point(1, 2)


def large(n: int) -> bytes:
    return b"x" * n


def draw() -> float:
    return random.random()


def draw_numpy() -> float:
    import numpy as np

    return float(np.random.rand())


def remember(value: Any) -> None:
    state.append(value)


def remembered() -> List[Any]:
    return state


def environment(name: str) -> Any:
    return os.environ.get(name)


def cwd() -> str:
    return os.getcwd()


def shared() -> Any:
    import cloveos

    return cloveos.shared()


def make_shared() -> Any:
    return {"answer": 42}
