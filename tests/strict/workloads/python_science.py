"""What numpy, scipy and scikit-learn do: BLAS and OpenMP threads, joblib's processes, mapped arrays. Prints `ok`."""

import tempfile

import joblib
import numpy
import scipy.linalg
import scipy.optimize
import scipy.sparse
import sklearn.datasets
import sklearn.decomposition
import sklearn.ensemble
import sklearn.linear_model
import sklearn.model_selection
import sklearn.neighbors
import sklearn.svm
import threadpoolctl


def power(n):
    return numpy.full(200_000, n).sum()


def main():
    rng = numpy.random.default_rng()
    a = rng.normal(size=(600, 600))
    numpy.linalg.svd(a @ a.T)
    numpy.fft.fft2(a)
    scipy.linalg.eigh(a @ a.T)
    scipy.optimize.minimize(lambda x: (x**2).sum(), numpy.ones(4))
    scipy.sparse.random(500, 500, 0.01).tocsr() @ numpy.ones(500)
    with tempfile.TemporaryDirectory() as d:
        numpy.save(d + "/a.npy", a)
        assert numpy.load(d + "/a.npy", mmap_mode="r+")[0, 0] == a[0, 0]
        numpy.memmap(d + "/m", dtype="f8", mode="w+", shape=(1000, 100))[:] = 1
        memory = joblib.Memory(d, verbose=0)
        assert memory.cache(power)(2) == memory.cache(power)(2)
        joblib.dump(a, d + "/a.joblib", compress=3)
        joblib.load(d + "/a.joblib")
    for backend in ("loky", "threading", "multiprocessing"):
        assert joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(power)(n) for n in range(4))[3] == 600_000
    # Large enough for joblib to hand it over in a mapped file.
    big = numpy.ones(400_000)
    joblib.Parallel(n_jobs=2)(joblib.delayed(numpy.sum)(big) for _ in range(2))
    x, y = sklearn.datasets.make_classification(600, 20, random_state=0)
    for model in (
        sklearn.ensemble.RandomForestClassifier(20, n_jobs=2),
        sklearn.ensemble.HistGradientBoostingClassifier(max_iter=5),
        sklearn.linear_model.LogisticRegression(),
        sklearn.svm.SVC(),
        sklearn.neighbors.KNeighborsClassifier(n_jobs=2),
    ):
        assert model.fit(x, y).score(x, y) > 0.8
    sklearn.decomposition.PCA(3).fit_transform(x)
    search = sklearn.model_selection.GridSearchCV(sklearn.svm.SVC(), {"C": [0.1, 1]}, n_jobs=2, cv=2)
    search.fit(x, y)
    with threadpoolctl.threadpool_limits(1):
        a @ a
    threadpoolctl.threadpool_info()


if __name__ == "__main__":
    main()
    print("ok")
