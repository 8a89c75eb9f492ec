"""Reads MoleculeACE's measurements, splits and published hyperparameters out of its wheel.

The package itself is never imported or installed: it would bring PyTorch along, and only its data are needed.
This file lies beside the experiment in the agent's read-only folder, so it may import nothing of CloveOS.
"""

from __future__ import annotations

import csv
import io
import os
import sys
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple, Union

DEFAULT_TARGETS = (
    "CHEMBL1862_Ki",
    "CHEMBL1871_Ki",
    "CHEMBL2034_Ki",
    "CHEMBL2047_EC50",
    "CHEMBL231_Ki",
    "CHEMBL237_EC50",
    "CHEMBL262_Ki",
    "CHEMBL2835_Ki",
    "CHEMBL2971_Ki",
    "CHEMBL4005_Ki",
    "CHEMBL4203_Ki",
    "CHEMBL4616_EC50",
)
MODELS = ("SVM", "RF", "GBM", "KNN")
RADIUS = 2
BITS = 1024
# The wheel's `y` is -log10 of nanomolar, so pKi (or pEC50) = 9 + y, and pKi 7 is 100 nM.
ACTIVE_Y = 7.0 - 9.0

_DATA = "MoleculeACE/Data/benchmark_data/"
_CONFIGURES = "MoleculeACE/Data/configures/benchmark/"

Scalar = Union[None, int, float, str]


class Target(NamedTuple):
    """One target's matrices, split as its authors split them, and the published hyperparameters per model."""

    x_train: Any
    y_train: Any
    x_test: Any
    y_test: Any
    hyperparameters: dict[str, dict[str, Scalar]]


def target_names(wheel: str) -> list[str]:
    """The names of all targets in the wheel, in their numeric order."""
    with zipfile.ZipFile(wheel) as archive:
        names = [
            name[len(_DATA) : -len(".csv")]
            for name in archive.namelist()
            if name.startswith(_DATA) and name.endswith(".csv")
        ]
    return sorted(names, key=lambda name: (int("".join(filter(str.isdigit, name.split("_")[0]))), name))


def read_rows(archive: zipfile.ZipFile, target: str) -> list[dict[str, str]]:
    """The rows of one target: smiles, exp_mean [nM], y, cliff_mol, split."""
    text = archive.read(f"{_DATA}{target}.csv").decode("utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def read_hyperparameters(archive: zipfile.ZipFile, target: str, model: str) -> dict[str, Scalar]:
    """What was published for one target and model.

    The files are flat `key: scalar` lines, so a YAML library isn't needed; `null` is None.
    """
    text = archive.read(f"{_CONFIGURES}{target}/{model}_ECFP.yml").decode("utf-8")
    found: dict[str, Scalar] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found[key.strip()] = _scalar(value.strip())
    return found


def _scalar(text: str) -> Scalar:
    if text == "null":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def expected_cpu_s(wheel: str, targets: Sequence[str]) -> float:
    """CPU seconds that training all models on the targets takes, roughly: fitted to the 30 targets of the wheel.

    Nearly all of it is the forests, whose published sizes differ: a single target may take twice or half of it.
    """
    with zipfile.ZipFile(wheel) as archive:
        return sum(0.0021 * len(read_rows(archive, target)) ** 1.25 for target in targets)


def fingerprints(smiles: Sequence[str]) -> Any:
    """ECFP of radius 2, 1024 bits, one molecule a row, eight bits packed into a byte."""
    import numpy as np
    from rdkit import Chem, RDLogger
    from rdkit.Chem import rdFingerprintGenerator

    RDLogger.DisableLog("rdApp.*")
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    rows = [generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(one)) for one in smiles]
    return np.packbits(np.asarray(rows, dtype=np.uint8), axis=1)


def write_features(wheel: str, path: str) -> None:
    """Compute the fingerprints of every target once and keep them as one compressed file."""
    import numpy as np

    with zipfile.ZipFile(wheel) as archive:
        packed = {
            target: fingerprints([row["smiles"] for row in read_rows(archive, target)])
            for target in target_names(wheel)
        }
    with open(path, "wb") as out:
        np.savez_compressed(out, **packed)


def load(wheel: str, targets: Sequence[str], features: str = "") -> dict[str, Target]:
    """The named targets, ready to be trained on; `features` is what `write_features` wrote, if any."""
    import numpy as np

    ready: dict[str, Target] = {}
    kept = np.load(features) if features and os.path.exists(features) else None
    with zipfile.ZipFile(wheel) as archive:
        for target in targets:
            rows = read_rows(archive, target)
            packed = kept[target] if kept is not None else fingerprints([row["smiles"] for row in rows])
            x = np.unpackbits(packed, axis=1).astype(np.float64)
            y = np.asarray([float(row["y"]) for row in rows])
            train = np.asarray([row["split"] == "train" for row in rows])
            ready[target] = Target(
                x[train],
                y[train],
                x[~train],
                y[~train],
                {model: read_hyperparameters(archive, target, model) for model in MODELS},
            )
    return ready


if __name__ == "__main__":
    write_features(sys.argv[1], sys.argv[2])
