"""The experiments that every contestant runs: small fits with scikit-learn and numpy, the same numbers everywhere."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import sklearn
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.svm import SVC

#: A leak that nobody stops ends here: it must not take the machine along.
LEAK_BYTES = 3 << 30
_MIB = 1 << 20


class Data(NamedTuple):
    """One small table, cut in two."""

    x: Any
    y: Any
    test_x: Any
    test_y: Any


def _made() -> Data:
    x, y = make_classification(n_samples=1200, n_features=24, n_informative=12, random_state=1)
    return Data(np.ascontiguousarray(x[:900]), y[:900], np.ascontiguousarray(x[900:]), y[900:])


DATA = _made()


def _forest(n: int, scale: float) -> float:
    model = RandomForestClassifier(n_estimators=max(1, round(26 * scale)), max_depth=8, random_state=n, n_jobs=1)
    return float(model.fit(DATA.x, DATA.y).score(DATA.test_x, DATA.test_y))


def _support_vectors(n: int, scale: float) -> float:
    score = 0.0
    for i in range(max(1, round(2 * scale))):
        model = SVC(C=1.0 + (n + i) % 17, gamma=0.02).fit(DATA.x, DATA.y)
        score += float(model.score(DATA.test_x, DATA.test_y))
    return score


def _boosting(n: int, scale: float) -> float:
    model = HistGradientBoostingClassifier(
        max_iter=max(1, round(28 * scale)), max_leaf_nodes=15, early_stopping=False, random_state=n
    )
    return float(model.fit(DATA.x, DATA.y).score(DATA.test_x, DATA.test_y))


def _components(n: int, scale: float) -> float:
    sum_ = 0.0
    for i in range(max(1, round(300 * scale))):
        shifted = DATA.x + (n + i) % 13
        values = np.linalg.svd(shifted, compute_uv=False)
        weights = np.linalg.solve(shifted.T @ shifted + np.eye(24), shifted[0])
        sum_ += float(values[0] + weights[0])
    return round(sum_, 6)


_KINDS = (_forest, _support_vectors, _boosting, _components)


def trial(n: int, scale: float, fault: str = "") -> dict[str, float]:
    """One experiment. Says its score, and what it cost: CPU seconds and minor page faults, exit not included."""
    if fault:
        _do_wrong(fault)
    before = resource.getrusage(resource.RUSAGE_SELF)
    score = _KINDS[n % len(_KINDS)](n, scale)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"n": n, "score": score, "cpu_s": cpu_s, "faults": after.ru_minflt - before.ru_minflt}


def _do_wrong(fault: str) -> None:
    if fault == "segfault":
        ctypes.string_at(0)
    if fault == "leak":
        hoard: list[bytearray] = []
        while len(hoard) * _MIB < LEAK_BYTES:
            hoard.append(bytearray(os.urandom(16) + bytes(_MIB - 16)))
        raise RuntimeError("nobody stopped the leak")
    raise ValueError(fault)


def warm() -> None:
    """One tiny experiment of each kind: first uses that every forked process would else pay for."""
    for kind in range(len(_KINDS)):
        trial(kind, 0.01)


def first_instruction() -> bytes:
    """When it began, in nanoseconds of CLOCK_MONOTONIC; with scikit-learn loaded, as `sklearn` above shows."""
    at = time.monotonic_ns()
    assert sklearn.__version__
    return b"at=%d;" % at


def nothing(_: int) -> None:
    """For the sustained rate."""


def cap_memory(cap_bytes: int) -> None:
    """The strongest cap that plain Python has without root, counted from here: its private writable memory."""
    with open("/proc/self/status", encoding="ascii") as file:
        used = next(int(line.split()[1]) for line in file if line.startswith("VmData:")) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + cap_bytes, used + cap_bytes))


def no_core_files() -> None:
    """A segfault's core file would cost the peers time that ours doesn't spend."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    # A fresh interpreter for one experiment: n and scale are the arguments.
    import json

    print(json.dumps(trial(int(sys.argv[1]), float(sys.argv[2]))))
