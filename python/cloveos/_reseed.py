"""Seeds the random number generators of a task: processes forked from one template would else draw the same numbers."""

from __future__ import annotations

import random
import sys


def reseed(seed: int) -> None:
    """Seeds `random`, and numpy's and torch's global generators if they are loaded.

    Generators that take their seed from the system (`numpy.random.default_rng()`, `secrets`) differ anyway.
    """
    random.seed(seed)
    modules = sys.modules
    # The submodule, not the package: numpy imports it lazily from 2.x on.
    if "numpy.random" in modules:
        try:
            modules["numpy.random"].seed(seed & 0xFFFFFFFF)
        except AttributeError:
            pass  # half imported
    if "torch" in modules:
        try:
            modules["torch"].manual_seed(seed & 0x7FFFFFFFFFFFFFFF)
        except AttributeError:
            pass
