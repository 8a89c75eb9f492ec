"""Brings a parent into the state that our templates are in before they fork, so that the peers lose nothing by it."""

from __future__ import annotations

import ctypes
import gc

import workload


def warm_parent() -> None:
    """First uses made; then what `cloveos._template.settle` does: garbage away, the rest frozen, memory trimmed."""
    workload.no_core_files()
    workload.warm()
    gc.collect()
    gc.collect()
    gc.freeze()
    ctypes.CDLL(None).malloc_trim(0)
