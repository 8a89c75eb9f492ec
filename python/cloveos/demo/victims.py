"""Chooses which experiments are made to fail, and how."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import faults


class BadVictim(Exception):
    """A victim named on the command line doesn't exist or is named twice."""


class Victims(NamedTuple):
    """The three victims as positions in the list of experiments, from 0."""

    segfault: int
    leak: int
    kill: int

    def fault_at(self, position: int) -> str | None:
        """Which of the three faults this position gets, if any."""
        for kind, victim in zip(self._fields, self):
            if victim == position:
                return kind
        return None


def position_of(text: str, names: Sequence[str]) -> int:
    """The position that a user means by `17` (counted from 1) or `CHEMBL231_Ki-SVM`."""
    if text in names:
        return names.index(text)
    if text.isdigit() and 1 <= int(text) <= len(names):
        return int(text) - 1
    raise BadVictim(f"there is no experiment {text!r}: give a number from 1 to {len(names)}, or a name as {names[0]}")


def choose(
    names: Sequence[str],
    seed: int,
    crash: str | None = None,
    leak: str | None = None,
    kill: str | None = None,
    kill_among: Sequence[int] = (),
) -> Victims:
    """Three distinct victims: those that are named, the others drawn from the seed.

    `kill_among` are the positions that the victim of the kill is drawn from, when any are free.
    """
    if len(names) < 3:
        raise BadVictim(f"three victims need three experiments, and there are {len(names)}: name more targets")
    named = [None if text is None else position_of(text, names) for text in (crash, leak, kill)]
    taken = [position for position in named if position is not None]
    if len(set(taken)) != len(taken):
        raise BadVictim("--crash, --leak and --kill must name different experiments")
    # Not among the first eighth: a column that dies before it has done anything shows less.
    pool = [position for position in range(len(names) // 8, len(names)) if position not in taken]
    if len(pool) < 3 - len(taken):
        pool = [position for position in range(len(names)) if position not in taken]
    random.Random(seed).shuffle(pool)
    early = [position for position in pool if position in kill_among]
    if named[2] is None and early:
        named[2] = early[0]
        pool.remove(early[0])
    drawn = iter(pool)
    return Victims(*(next(drawn) if position is None else position for position in named))


def with_faults(
    configurations: Sequence[Mapping[str, Any]], victims: Victims | None, linger_s: float = faults.LINGER_S
) -> list[dict[str, Any]]:
    """The configurations, each told its fault; without victims, all of them harmless.

    The victim of a kill by hand has no fault of its own: it only waits at its start, for a hand to reach it.
    """
    told = []
    for position, configuration in enumerate(configurations):
        kind = victims.fault_at(position) if victims is not None else None
        one = {
            **configuration,
            "fault": {None: "none", "kill": "linger"}.get(kind, kind),
            "attempt_of_fault": 1,
        }
        if kind == "kill":
            one["linger_s"] = linger_s
        told.append(one)
    return told
