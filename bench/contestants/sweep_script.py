"""Ours: the script of `clove sweep run`."""

from __future__ import annotations

from typing import Any

import workload


def setup() -> None:
    """Once, before the tasks are forked."""
    workload.warm()


def run(config: dict[str, Any]) -> dict[str, float]:
    """One experiment."""
    return workload.trial(config["n"], config["scale"])
