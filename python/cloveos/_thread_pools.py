"""Sets the thread counts of loaded BLAS and OpenMP libraries, for which environment variables come too late."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from typing import Any, Callable, List, Optional

#: Read by the libraries when they are loaded.
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

_LIBRARY = re.compile(r"/[^/]*(?:openblas|mkl_rt|blis|gomp|libomp|iomp)[^/]*\.so[^/]*\Z", re.I)
_SETTERS = (
    "openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "scipy_openblas_set_num_threads64_",
    "MKL_Set_Num_Threads",
    "bli_thread_set_num_threads",
    "omp_set_num_threads",
)
# End a pool's threads. OpenBLAS does so itself before fork(2), but not before a bare clone3.
_STOPPERS = (
    "blas_thread_shutdown_",
    "blas_thread_shutdown_64_",
    "scipy_blas_thread_shutdown_",
    "scipy_blas_thread_shutdown_64_",
    "blas_shutdown",
)
_OMP_PAUSE_HARD = 2


class ThreadPools:
    """The pools that were loaded when this was made."""

    def __init__(self) -> None:
        self._setters: List[Callable[[int], Any]] = []
        self._libraries = [ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW) for path in _mapped()]
        for library in self._libraries:
            for name in _SETTERS:
                setter = _symbol(library, name)
                if setter is not None:
                    setter.argtypes, setter.restype = [ctypes.c_int], None
                    self._setters.append(setter)
                    break

    def set(self, threads: int) -> None:
        """Sets each pool's number of threads."""
        for setter in self._setters:
            setter(threads)
        torch = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "set_num_threads"):
            torch.set_num_threads(threads)

    def stop(self) -> None:
        """Ends the threads that the pools hold, where the library can."""
        for library in self._libraries:
            for name in _STOPPERS:
                stopper = _symbol(library, name)
                if stopper is not None:
                    stopper.argtypes, stopper.restype = [], ctypes.c_int
                    stopper()
                    break
            pause = _symbol(library, "omp_pause_resource_all")
            if pause is not None:
                pause.argtypes, pause.restype = [ctypes.c_int], ctypes.c_int
                pause(_OMP_PAUSE_HARD)


def _symbol(library: ctypes.CDLL, name: str) -> Optional[Any]:
    try:
        return getattr(library, name)
    except AttributeError:
        return None


def _mapped() -> List[str]:
    found: List[str] = []
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                at = line.find("/")
                if at < 0:
                    continue
                path = line[at:].rstrip("\n")
                if _LIBRARY.search(path) and path not in found:
                    found.append(path)
    except OSError:
        pass  # no /proc: the environment variables have to do
    return found
