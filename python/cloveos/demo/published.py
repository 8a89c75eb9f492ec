"""The test RMSE that MoleculeACE's authors published, and how ours compare."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# How far from the published figure a result may be; only the SVM is free of chance, and held to 3 decimals.
TOLERANCE = 0.05


class Comparison(NamedTuple):
    """How many of those results that have a published figure come up to it."""

    svm_equal: int
    svm_known: int
    within: int
    known: int


def read() -> dict[tuple[str, str], float]:
    """Target and model to published RMSE."""
    with open(Path(__file__).with_name("published_rmse.csv"), newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {(row["target"], row["model"]): float(row["rmse"]) for row in rows}


def compare(
    configs: Sequence[Mapping[str, Any]],
    results: Mapping[int, Mapping[str, Any]],
    figures: Mapping[tuple[str, str], float],
) -> Comparison:
    """Count; a result that is missing counts as not equal."""
    svm_equal = svm_known = within = known = 0
    for position, config in enumerate(configs):
        figure = figures.get((config["target"], config["model"]))
        if figure is None:
            continue
        known += 1
        ours = results.get(position, {}).get("rmse")
        close = isinstance(ours, float) and abs(ours / figure - 1) <= TOLERANCE
        within += close
        if config["model"] == "SVM":
            svm_known += 1
            svm_equal += isinstance(ours, float) and round(ours, 3) == round(figure, 3)
    return Comparison(svm_equal, svm_known, within, known)
