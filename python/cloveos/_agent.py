"""What a process forked from a template does: takes a task, runs it, hands in what came of it, and ends.

It ends with `os._exit`: Python's and C's buffers are flushed, but `atexit` handlers of modules that the template had
loaded don't run, as they would run once for each of thousands of processes that share them.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import shutil
import socket
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from . import _blobs, _json_form, _main_module, _payload, _results, _thread_pools
from . import agent as _about
from ._calls import NUMBERS
from ._reseed import reseed
from ._traceback_text import exception_text
from ._wire import Connection, Frame, frame, reply_of
from .errors import ConnectionLost, SysError

#: The agent's syscall socket.
SOCKET_FD = 3
#: A larger opaque result goes as a blob.
TAIL_BYTES = 8 << 20

_SOCKET_INSIDE = "/run/clove/kernel.sock"
_FOLDERS_INSIDE = (("CLOVE_OUT", "/out"), ("CLOVE_CHECKPOINT", "/checkpoint"))
_REHEARSAL_ENV = dict.fromkeys(
    ("CLOVE_AGENT", "CLOVE_ATTEMPT", "CLOVE_CHECKPOINT", "CLOVE_OUT", "CLOVE_RUN", "CLOVE_TASK"), "0"
)

_NEXT = NUMBERS["task.next"]
_DONE = NUMBERS["task.done"]


class Agent:
    """Everything that can be made before the fork is made here."""

    def __init__(self, run: Optional[Callable[..., Any]], takes_shared: bool, shared: Any) -> None:
        self._run = run
        self._takes_shared = takes_shared
        self._shared = shared
        self._pools = _thread_pools.ThreadPools()
        self._threads = 1
        self._correlation = 1
        self._first = frame(_NEXT, 1, b"{}")
        self._env_before: Dict[str, Optional[str]] = {}
        self._initialized: Set[str] = set()
        self._fflush: Any = ctypes.CDLL(None).fflush
        self._connection: Optional[Connection] = None
        self._rss_before = 0
        # What is emptied between two tasks. Nothing until `main` knows that it is inside: a rehearsal in the template,
        # or a test without walls, must not touch the machine's own folders of these names.
        self._own_folders: List[str] = []
        _about._shared = shared

    def serve(self, sock: socket.socket) -> int:
        """Takes tasks from the kernel until there are no more for this process; returns its exit code."""
        connection = self._connection = Connection(sock)
        self._rss_before = _peak_rss()
        try:
            connection.send(self._first)
            while True:
                reply = connection.receive()
                task = reply_of(reply)
                self._perform(task, reply.tail)
                if not task.get("reuse"):
                    return 0
                # The next task's folders are its own; what this one kept has been taken.
                for folder in self._own_folders:
                    _empty(folder)
                connection.send(frame(_NEXT, self._another(), b"{}"))
        except ConnectionLost:
            # The kernel has ended, or has no more use for this process.
            return 0
        except SysError as e:
            sys.stderr.write(f"clove: {e}\n")
            return 70

    def _another(self) -> int:
        self._correlation += 1
        return self._correlation

    def _call(
        self, name: str, args: Mapping[str, Any], tail: Any = b"", fds: Sequence[int] = ()
    ) -> Tuple[Dict[str, Any], bytes]:
        """As `Client.call`."""
        reply = self._exchange(NUMBERS[name], _json_form.encode(args), tail, fds)
        return reply_of(reply), reply.tail

    def _exchange(self, number: int, body: bytes, tail: Any = b"", fds: Sequence[int] = ()) -> Frame:
        assert self._connection is not None
        self._connection.send(frame(number, self._another(), body, len(tail), 0, len(fds)), tail, fds)
        return self._connection.receive()

    def _perform(self, task: Mapping[str, Any], tail: bytes) -> None:
        done: Dict[str, Any] = {"run": task["run"], "task": task["task"], "attempt": task["attempt"]}
        opaque: bytes = b""
        try:
            self._prepare(task)
            if task["mode"] == "call":
                opaque = self._perform_call(task, tail, done)
            else:
                done["result"] = self._perform_script(task, done)
        except SystemExit as e:
            self._flush()
            os._exit(_exit_code(e))
        except BaseException as e:
            done["exception"] = exception_text(e)
            done.pop("result", None)
        self._flush()
        if len(opaque) > TAIL_BYTES:
            done["blob"] = _blobs.put(self._call, opaque)
            opaque = b""
        # Growth, not size: what it shares with its template isn't its own.
        done["rss_bytes"] = max(0, _peak_rss() - self._rss_before)
        body = _json_form.encode(done)
        if len(body) > _json_form.MAX_RESULT_BYTES and "result" in done:
            del done["result"]
            done["exception"] = exception_text(_json_form.too_long(len(body)))
            body = _json_form.encode(done)
        reply_of(self._exchange(_DONE, body, opaque))

    def _prepare(self, task: Mapping[str, Any]) -> None:
        environ = os.environ
        self._restore_env()
        env: Mapping[str, str] = task["env"]
        self._env_before = {name: environ.get(name) for name in env}
        environ.update(env)
        if "TZ" in env:
            time.tzset()
        if "tempfile" in sys.modules:
            tempfile: Any = sys.modules["tempfile"]
            tempfile.tempdir = None  # looked up anew, from this TMPDIR
        threads = task["threads"]
        if threads and threads != self._threads:
            self._pools.set(threads)
            self._threads = threads
        cwd = env.get("CLOVE_CWD")
        if cwd:
            os.chdir(cwd)

    def _restore_env(self) -> None:
        """Takes back what the task before was given, and this one perhaps isn't."""
        for name, before in self._env_before.items():
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before
        self._env_before = {}

    def _perform_script(self, task: Mapping[str, Any], done: Dict[str, Any]) -> Any:
        if self._run is None:
            raise RuntimeError("the template has no script, so there is no run(config, shared) to call")
        config = task["config"]
        args = (config, self._shared) if self._takes_shared else (config,)
        reseed(task["seed"])
        return _json_form.encode_result(_timed(done, self._run, args, {}))

    def _perform_call(self, task: Mapping[str, Any], tail: bytes, done: Dict[str, Any]) -> bytes:
        blob = task.get("payload_blob")
        payload = _payload.unpack(_blobs.get(self._call, blob) if blob else tail)
        try:
            if payload.main is not None:
                _main_module.load_main(payload.main)
            if payload.initializer is not None and payload.initializer[0] not in self._initialized:
                fn, args, kwargs = _payload.load_call(payload.initializer[1])
                reseed(task["seed"])
                fn(*args, **kwargs)
                self._initialized.add(payload.initializer[0])
            fn, args, kwargs = _payload.load_call(payload.call)
            # After all that may have imported numpy or drawn numbers, so that the call itself starts from its seed.
            reseed(task["seed"])
            result = _timed(done, fn, args, kwargs)
            return _results.dumps_trusted(result) if payload.trusted else _results.dumps(result)
        except SystemExit:
            raise
        except BaseException as e:
            done["exception"] = exception_text(e)
            return _pickled_exception(e, payload.trusted)

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                pass
        self._fflush(None)


def _peak_rss() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _empty(folder: str) -> None:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)
    except OSError:
        pass  # it isn't there, or the task has taken its own rights away


def _timed(done: Dict[str, Any], fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    started = time.perf_counter_ns()
    try:
        return fn(*args, **kwargs)
    finally:
        done["elapsed_us"] = (time.perf_counter_ns() - started) // 1000


def _pickled_exception(error: BaseException, trusted: bool) -> bytes:
    """The exception itself beside its text, if it can be; the caller decides whether it builds it."""
    try:
        return _results.dumps_trusted(error) if trusted else _results.dumps(error)
    except Exception:
        return b""


def _exit_code(e: SystemExit) -> int:
    if e.code is None:
        return 0
    if isinstance(e.code, int):
        return e.code & 0xFF
    sys.stderr.write(f"{e.code}\n")
    sys.stderr.flush()
    return 1


def main(agent: Agent) -> int:
    """In the forked process: serves on descriptor 3."""
    # An embryo waits anyway: what it does here it needn't do when its task has come. This process's first pass over
    # code and data costs some 300 page faults, most of the time between a task's arrival and its start.
    rehearse(agent, 1)
    if os.environ.get("CLOVE_SOCKET") == _SOCKET_INSIDE:
        agent._own_folders = [path for name, path in _FOLDERS_INSIDE if os.environ.get(name) == path]
    # With family and type given, Python asks the kernel nothing.
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=SOCKET_FD)
    sock.setblocking(True)
    # What the task forks must not speak on its socket.
    os.register_at_fork(after_in_child=lambda: _close_in_child(sock))
    return agent.serve(sock)


def _close_in_child(sock: socket.socket) -> None:
    try:
        sock.close()
    except OSError:
        pass


def rehearse(agent: Agent, times: int = 30) -> None:
    """Serves a few empty tasks over a socket pair, in the template and once in each embryo.

    So what a first task would have to do (caches, bytecode that adapts itself, pages to be mapped or copied) is done
    before there is one.
    """
    call = _payload.pack(_payload.Payload(None, False, None, pickle.dumps((abs, (-1,), {}), 5)))
    task = {
        "run": "r0", "task": 0, "attempt": 1, "name": "0", "config": None, "seed": 0, "threads": 1,
        "env": _REHEARSAL_ENV, "mode": "call" if agent._run is None else "script", "payload_blob": None,
    }  # fmt: skip
    kept = (agent._run, agent._takes_shared, agent._threads)
    if agent._run is not None:
        agent._run, agent._takes_shared = dict, False
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        answers: List[bytes] = []
        for i in range(times):
            body = _json_form.encode({**task, "config": {}, "reuse": i + 1 < times})
            answers.append(frame(_NEXT, 0, body, len(call), 1) + call)
            answers.append(frame(_DONE, 0, b"{}", 0, 1))
        # Well below a socket's buffer, so that nobody has to read on the other side.
        theirs.sendall(b"".join(answers))
        agent.serve(ours)
    agent._run, agent._takes_shared, agent._threads = kept
    agent._correlation = 1
    agent._connection = None
    agent._restore_env()
