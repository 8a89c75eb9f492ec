"""What each benchmark is given: the programs, how much to do, and a voice."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import TypeVar

from kernel_home import KernelHome
from places import Places

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Bench:
    """One run of the suite."""

    places: Places
    quick: bool
    rounds: int

    def size(self, full: T, quick: T) -> T:
        """How much, in a real run and in a quick one."""
        return quick if self.quick else full

    @property
    def jobs(self) -> int:
        """Experiments at a time: as many as there are CPUs."""
        return len(os.sched_getaffinity(0))

    def home(self) -> KernelHome:
        """A kernel of the benchmark's own, for a `with`."""
        return KernelHome(self.places)

    def say(self, text: str) -> None:
        """Where it is; results go elsewhere."""
        print(f"bench: {text}", file=sys.stderr, flush=True)
