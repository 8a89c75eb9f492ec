"""A warm sweep with scikit-learn: what a template and its agents call."""

import os
import subprocess

import numpy
import sklearn.datasets
import sklearn.ensemble


def setup():
    return sklearn.datasets.make_classification(300, 10, random_state=0)


def run(config, shared):
    x, y = shared
    model = sklearn.ensemble.RandomForestClassifier(10, n_jobs=2, max_depth=config["depth"]).fit(x, y)
    numpy.linalg.svd(x)
    with open(os.path.join(os.environ["CLOVE_OUT"], "f"), "w") as f:
        f.write("kept")
    with open(os.path.join(os.environ["CLOVE_CHECKPOINT"], "f"), "w") as f:
        f.write("there again")
    subprocess.run(["true"], check=True)
    return {"score": float(model.score(x, y))}
