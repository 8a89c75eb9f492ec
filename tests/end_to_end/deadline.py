"""Waiting for something to become true, with an end to the patience."""

from __future__ import annotations

import time
from typing import Any, Callable

#: Seconds. Generous, as two loaded CPUs are all that may be there: a right program never comes near it.
PATIENCE = 60.0


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true answer of `condition`; fails, saying `what` was waited for, when none comes in time."""
    end = time.monotonic() + patience
    pause = 0.002
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience:.0f} s in vain for {what}; last answer: {answer!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
