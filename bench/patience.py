"""Waiting for something to become true, with an end to the patience."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 120.0


def until(condition: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """The first true answer of `condition`. Raises TimeoutError, saying `what` was waited for."""
    end = time.monotonic() + patience_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise TimeoutError(f"waited {patience_s:.0f} s in vain for {what}")
        time.sleep(0.002)
