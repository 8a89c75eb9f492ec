"""`Executor`: a `concurrent.futures.Executor` whose every call runs in an isolated process with limits of its own."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import os
import re
import sys
import threading
import weakref
from concurrent.futures import Executor as _BaseExecutor
from concurrent.futures import Future
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from . import _call_pickle, _environment, _main_module, agent
from ._client import Client
from ._payload import Payload, pack, run_chunk
from ._session import Item, Session
from ._sizes import to_bytes

if TYPE_CHECKING:
    from typing import TypeVar

    from typing_extensions import ParamSpec

    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["Executor"]

#: As many attempts as a `u32` holds would be a mistake of the caller.
MAX_REUSE = 1 << 20


class Executor(_BaseExecutor):
    """Runs calls in isolated processes: one that crashes, leaks or loops dies alone, and its future says how.

    It takes the place of `concurrent.futures.ProcessPoolExecutor`. Nothing has to be started before.

    `max_workers`: calls at a time; by default as many as there are CPUs.
    `memory`, `disk`: bytes, or text such as "512m", for each call. `cpu`: CPUs, for example 0.5. `pids`: processes and
    threads. `timeout`: seconds of wall time for each call. What isn't given gets the kernel's default.
    `preload`: modules that are loaded once, before the workers are forked; by default what the first call's function
    needs. `preload=[]` loads nothing before, for modules that start threads or open files when they are imported.
    `setup`: a function (or "module:function") to call once after that; what it returns is `cloveos.shared()`.
    `reuse`: calls that one process takes in a row; 1 means a fresh process for each.
    `retries`: further attempts for a call whose process died. `env`: variables for the calls. `mounts`: "SRC:DST" or
    "SRC:DST:rw"; the script's folder is there anyway, read-only. `seed`: seeds `random` and numpy in each call, derived
    from it and the call's number; random by default.
    `profile`: "strict" leaves only the system calls that Python programs are known to need, and starts nothing where
    Linux has no Landlock.
    `trust_results`: unpickle whatever the calls return. Only for code that you trust as your own.
    `initializer` and `initargs` are run once in each worker process, before its first call.
    """

    def __init__(
        self,
        max_workers: Optional[int] = None,
        mp_context: Any = None,
        initializer: Optional[Callable[..., object]] = None,
        initargs: Tuple[Any, ...] = (),
        *,
        max_tasks_per_child: Optional[int] = None,
        memory: Union[str, int, None] = None,
        cpu: Optional[float] = None,
        timeout: Optional[float] = None,
        pids: Optional[int] = None,
        disk: Union[str, int, None] = None,
        preload: Optional[Sequence[str]] = None,
        setup: Union[str, Callable[[], Any], None] = None,
        reuse: Optional[int] = None,
        retries: int = 0,
        env: Optional[Mapping[str, str]] = None,
        mounts: Sequence[_environment.MountLike] = (),
        name: Optional[str] = None,
        seed: Optional[int] = None,
        trust_results: bool = False,
        allow_degraded: bool = False,
        profile: Optional[str] = None,
    ) -> None:
        if mp_context is not None:
            raise TypeError(
                "mp_context makes no sense here: workers are always forked from a template that was loaded once. "
                "Leave it out"
            )
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if isinstance(preload, str):
            raise TypeError(f"preload = {preload!r}: write a list of modules, for example [{preload!r}]")
        if profile not in (None, "default", "strict"):
            raise ValueError(f"profile = {profile!r} isn't known: 'default' or 'strict'")
        self._max_workers = max_workers or _cpus()
        self._limits = _limits(memory, cpu, timeout, pids, disk)
        self._preload = None if preload is None else list(preload)
        self._setup = _setup_name(setup)
        self._reuse = _positive("reuse", reuse or max_tasks_per_child or 1)
        self._retries = retries
        self._env = {**_environment.inherited_env(), **{str(k): str(v) for k, v in (env or {}).items()}}
        self._mounts = [_environment.parse_mount(m) for m in mounts]
        self._name = name or _own_name()
        self._jobs = max_workers or 0
        self._seed = int.from_bytes(os.urandom(7), "little") if seed is None else int(seed) & ((1 << 64) - 1)
        self._trusted = trust_results
        self._allow_degraded = allow_degraded
        self._profile = profile or "default"
        self._main = _environment.MainModule()
        self._initializer: Optional[Tuple[str, bytes]] = None
        self._initializer_call = (initializer, initargs) if initializer is not None else None
        self._session: Optional[Session] = None
        self._lock = threading.Lock()
        self._shut_down = False
        self._finalizer: Optional[weakref.finalize[Any, Any]] = None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedules `fn(*args, **kwargs)` in a worker of its own and returns its future."""
        if agent._building_template:
            raise RuntimeError(
                "this script starts work while it is imported by a worker's template. Put what starts it under\n"
                '    if __name__ == "__main__":'
            )
        future: Future[T] = Future()
        with self._lock:
            if self._shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
        try:
            payload = self._packed(fn, args, kwargs)
        except Exception as e:
            # As ProcessPoolExecutor does: what can't be pickled is the future's failure.
            future.set_running_or_notify_cancel()
            future.set_exception(e)
            return future
        with self._lock:
            if self._shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._session is None:
                self._session = self._open(fn)
            session = self._session
        session.submit(Item(future, payload))
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: Optional[float] = None,
        chunksize: int = 1,
        **more: Any,
    ) -> Iterator[T]:
        """As `map(fn, *iterables)`, in parallel; results come in order.

        `chunksize` calls go to one worker together, which saves work for short calls and shares their fate. `timeout`
        is how long to wait for a result, in seconds, from the call of `map` on.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout, **more)
        chunks = _chunks(zip(*iterables), chunksize)
        results = super().map(functools.partial(run_chunk, fn), chunks, timeout=timeout, **more)
        return _flat(results)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls. With `wait`, returns when those it has are done."""
        with self._lock:
            self._shut_down = True
            session = self._session
        if session is not None:
            session.shutdown(wait, cancel_futures)

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> Optional[bool]:
        if kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit)) and self._session is not None:
            # A pool's workers get the terminal's Ctrl-C too; agents have a session of their own.
            self._session.kill()
            self.shutdown(wait=True, cancel_futures=True)
        else:
            self.shutdown(wait=True)
        return None

    def _packed(self, fn: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> bytes:
        if self._initializer_call is not None and self._initializer is None:
            call = _call_pickle.dumps(self._initializer_call[0], tuple(self._initializer_call[1]), {}, self._main)
            self._initializer = (hashlib.sha256(call).hexdigest()[:16], call)
        call = _call_pickle.dumps(fn, args, kwargs, self._main)
        return pack(Payload(self._main.load, self._trusted, self._initializer, call))

    def _open(self, fn: Any) -> Session:
        session = Session(_connect, self._spec(_inner(fn)), self._max_workers, self._trusted)
        # When nobody holds the executor any more, what was submitted still runs to its end.
        self._finalizer = weakref.finalize(self, session.shutdown, False, False)
        self._finalizer.atexit = False
        return session

    def _spec(self, fn: Any) -> Dict[str, Any]:
        main = self._main
        mounts = _environment.mounts(main, self._mounts)
        preload: List[str]
        if self._preload is not None:
            preload = list(self._preload)
        else:
            preload = _environment.preload_for(fn, main)
            if "cloudpickle" in sys.modules and "cloudpickle" not in preload:
                preload.append("cloudpickle")
        if main.load is not None and (self._preload is None or self._preload):
            preload.append(_main_module.PREFIX + main.load)
        return {
            "kind": "executor",
            "name": self._name,
            "program": {
                "warm": {
                    "python": os.path.abspath(sys.executable),
                    "preload": preload,
                    **({"setup": self._setup} if self._setup else {}),
                    "sys_path": _environment.sys_path(),
                    "inputs_digest": _environment.inputs_digest(main, _environment.own_modules()),
                }
            },
            "jobs": self._jobs,
            "limits": self._limits,
            "retry": {"deaths": self._retries, "failures": 0},
            "reuse": self._reuse,
            "env": self._env,
            "mounts": mounts,
            **_cwd(mounts),
            "seed": self._seed,
            "attached": True,
            "allow_degraded": self._allow_degraded,
            "profile": self._profile,
        }


def _connect() -> Client:
    return Client(client="python Executor")


def _cwd(mounts: List[Dict[str, Any]]) -> Dict[str, str]:
    cwd = _environment.working_folder(mounts)
    return {} if cwd is None else {"cwd": cwd}


def _own_name() -> str:
    script = os.path.basename(sys.argv[0]) if sys.argv else ""
    # The kernel takes no control characters in a name, and its wire no bytes that aren't UTF-8.
    script = re.sub("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "_", script)[:50]
    return script if script not in ("", "-c", "-m") else "executor"


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _limits(
    memory: Union[str, int, None],
    cpu: Optional[float],
    timeout: Optional[float],
    pids: Optional[int],
    disk: Union[str, int, None],
) -> Dict[str, int]:
    limits: Dict[str, int] = {}
    if memory is not None:
        limits["memory_bytes"] = to_bytes("memory", memory)
    if cpu is not None:
        if not 0.001 <= cpu <= 1000:
            raise ValueError(f"cpu = {cpu!r} is out of range: 0.001 to 1000 CPUs")
        limits["cpu_milli"] = round(cpu * 1000)
    if timeout is not None:
        if not (timeout > 0 and math.isfinite(timeout)):
            raise ValueError(f"timeout = {timeout!r}: write seconds, more than 0, or leave it out for none")
        limits["wall_ms"] = max(1, round(timeout * 1000))
    if pids is not None:
        limits["pids"] = _positive("pids", pids)
    if disk is not None:
        limits["disk_bytes"] = to_bytes("disk", disk)
    return limits


def _positive(name: str, number: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= MAX_REUSE:
        raise ValueError(f"{name} = {number!r} has to be a whole number from 1 on")
    return number


def _setup_name(setup: Union[str, Callable[[], Any], None]) -> Optional[str]:
    if setup is None:
        return None
    if isinstance(setup, str):
        if ":" not in setup:
            raise ValueError(f"setup = {setup!r}: write 'module:function'")
        return setup
    module, name = getattr(setup, "__module__", None), getattr(setup, "__qualname__", "")
    if not module or not name or "<" in name:
        raise TypeError(f"setup = {setup!r} can't be imported by name: use a function at the top level of a module")
    return f"{module}:{name}"


def _inner(fn: Any) -> Any:
    """The function behind partial objects and the chunks of `map`."""
    while isinstance(fn, functools.partial):
        fn = fn.args[0] if fn.func is run_chunk and fn.args else fn.func
    return fn


def _chunks(calls: Iterator[Tuple[Any, ...]], size: int) -> Iterator[Tuple[Tuple[Any, ...], ...]]:
    while True:
        chunk = tuple(itertools.islice(calls, size))
        if not chunk:
            return
        yield chunk


def _flat(results: Iterator[List[T]]) -> Iterator[T]:
    for chunk in results:
        yield from chunk


# As multiprocessing does: what a worker pickles of the main script names this module.
sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
