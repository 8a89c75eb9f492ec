"""The ways in which an experiment of the demo is made to fail, on its first attempt only.

This file lies beside the experiment in the agent's read-only folder, so it may import nothing of CloveOS.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Mapping
from typing import Any

# How long the victim of a kill by hand waits at the start of its first attempt: the shortest experiment
# is over in 20 ms, and nobody aims that fast.
LINGER_S = 5.0

_BLOCK_BYTES = 16 << 20


def attempt() -> int:
    """Which attempt at its task this process is, from 1; outside of CloveOS there is only one."""
    return int(os.environ.get("CLOVE_ATTEMPT", "1"))


def suffer(config: Mapping[str, Any]) -> None:
    """Do what the configuration's `fault` says, if this is the attempt that it is meant for."""
    fault = config.get("fault") or "none"
    if fault == "none" or attempt() != int(config.get("attempt_of_fault", 1)):
        return
    if fault == "segfault":
        segfault()
    elif fault == "leak":
        leak()
    elif fault == "hang":
        hang()
    elif fault == "linger":
        time.sleep(float(config.get("linger_s", LINGER_S)))
    else:
        raise ValueError(f"unknown fault {fault!r}: use none, segfault, leak, hang or linger")


def segfault() -> None:
    """Write to address 0, as a broken native extension does."""
    ctypes.memset(0, 1, 1)


def leak() -> None:
    """Take memory, and touch it, until something stops it."""
    kept: list[bytes] = []
    while True:
        kept.append(b"\xff" * _BLOCK_BYTES)


def hang() -> None:
    """Never come back."""
    while True:
        time.sleep(3600)
