"""One drug-discovery experiment: train a model on a target's measurements, predict the held-out molecules.

It is an ordinary script that knows nothing of CloveOS; all columns of the demo run this same file.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import dataset
import faults
import numpy as np
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.svm import SVR
from threadpoolctl import threadpool_limits

SEED = 42


def setup() -> dict[str, dataset.Target]:
    """Load the targets that this run needs, once; all experiments share them copy-on-write."""
    wanted = os.environ.get("DRUG_DISCOVERY_TARGETS", "")
    targets: dict[str, dataset.Target] = dataset.load(
        os.environ["DRUG_DISCOVERY_WHEEL"],
        wanted.split(",") if wanted else dataset.DEFAULT_TARGETS,
        os.environ.get("DRUG_DISCOVERY_FEATURES", ""),
    )
    _warm_up()
    return targets


def _warm_up() -> None:
    """Train each kind of model on next to nothing, so that no process forked later pays for what is loaded
    on first use.

    With one thread, as ever: a pool of threads doesn't survive a fork.
    """
    random = np.random.default_rng(SEED)
    x, y = random.integers(0, 2, (16, 8)).astype(np.float64), random.random(16)
    small: dict[str, dict[str, Any]] = {"SVM": {}, "RF": {"n_estimators": 2}, "GBM": {"n_estimators": 2}, "KNN": {}}
    with threadpool_limits(limits=1):
        for name, hyperparameters in small.items():
            _model(name, hyperparameters).fit(x, y).predict(x)
    roc_auc_score(y > np.median(y), y)


def run(config: Mapping[str, Any], shared: Mapping[str, dataset.Target]) -> dict[str, Any]:
    """Train and score; `config` names the target, the model, and what shall go wrong."""
    started = time.perf_counter()
    faults.suffer(config)
    data = shared[config["target"]]
    y_train = data.y_train
    if config.get("shuffle"):
        # The control: with labels that belong to other molecules nothing may be learnt.
        y_train = np.random.default_rng(SEED).permutation(y_train)
    model = _model(config["model"], data.hyperparameters[config["model"]])
    # More threads than one would add rounding noise, and take cores from the experiments beside.
    with threadpool_limits(limits=1):
        model.fit(data.x_train, y_train)
        predicted = np.asarray(model.predict(data.x_test), dtype=np.float64)
    active = data.y_test >= dataset.ACTIVE_Y
    both = bool(active.any() and not active.all())
    return {
        "rmse": float(np.sqrt(np.mean((predicted - data.y_test) ** 2))),
        "auc": float(roc_auc_score(active, predicted)) if both else None,
        "n_train": len(data.y_train),
        "n_test": len(data.y_test),
        "prediction_digest": hashlib.sha256(predicted.astype("<f8").tobytes()).hexdigest(),
        "seconds": time.perf_counter() - started,
    }


def _model(name: str, hyperparameters: Mapping[str, Any]) -> Any:
    if name == "SVM":
        return SVR(**hyperparameters)
    if name == "RF":
        return RandomForestRegressor(**hyperparameters, random_state=SEED, n_jobs=1)
    if name == "GBM":
        return GradientBoostingRegressor(**hyperparameters, random_state=SEED)
    if name == "KNN":
        return KNeighborsRegressor(**hyperparameters, n_jobs=1)
    raise ValueError(f"unknown model {name!r}: use {', '.join(dataset.MODELS)}")
