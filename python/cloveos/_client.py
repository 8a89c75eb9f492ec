"""A client of the kernel's socket that any number of threads may use at once."""

from __future__ import annotations

import itertools
import os
import socket
import sys
import threading
import weakref
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple, Union

from . import _json_form
from ._calls import NUMBERS
from ._version import __version__
from ._wire import Connection, Frame, frame, reply_of
from .errors import CloveError, ConnectionLost

#: Is called with the reply, or with what went wrong, on the thread that reads.
OnReply = Callable[[Union[Frame, CloveError]], None]

_everyone: weakref.WeakSet[Client] = weakref.WeakSet()


class Client:
    """Makes syscalls. Calls are pipelined: while one waits, others go out and come back on the same connection.

    There is no thread behind it: whoever waits for a reply first reads for all, until its own has come. Only
    :meth:`call_async` starts a reader thread.

    Without a path, the kernel's socket is found as the command line finds it, and the kernel is started if needed.
    """

    def __init__(self, path: Optional[str] = None, *, client: str = "") -> None:
        if path is None:
            from ._locate import socket_path

            path = socket_path()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.connect(path)
        except OSError as e:
            sock.close()
            raise ConnectionLost(f"no kernel answers at {path}: {e}") from None
        self.path = path
        self._setup(sock)
        try:
            self.kernel: Dict[str, Any] = self.call(
                "kernel.hello",
                {"version": __version__, "client": client or f"python {os.path.basename(sys.argv[0] or '')}".strip()},
            )[0]
        except BaseException:
            self.close()
            raise

    @classmethod
    def on(cls, sock: socket.socket) -> Client:
        """On a connected socket, without a greeting."""
        self = cls.__new__(cls)
        self.path = ""
        self.kernel = {}
        self._setup(sock)
        return self

    def _setup(self, sock: socket.socket) -> None:
        self._connection = Connection(sock)
        self._next = itertools.count(1).__next__
        self._send_lock = threading.Lock()
        # Guards all below; its waiters are those whose reply somebody else reads.
        self._turn = threading.Condition(threading.Lock())
        self._reading = False
        self._followers = 0
        self._replies: Dict[int, Frame] = {}
        self._callbacks: Dict[int, OnReply] = {}
        self._abandoned: set[int] = set()
        self._broken: Optional[CloveError] = None
        self._thread: Optional[threading.Thread] = None
        _everyone.add(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls that wait raise :class:`ConnectionLost`."""
        if self._broken is None:
            self._broken = ConnectionLost("this client was closed")
        self._connection.close()

    def call(
        self, name: str, args: Mapping[str, Any], tail: Any = b"", fds: Sequence[int] = ()
    ) -> Tuple[Dict[str, Any], bytes]:
        """Makes a syscall and waits for its reply and the reply's tail.

        Raises :class:`SysError` when the kernel refuses, :class:`ConnectionLost` when it is gone.
        """
        reply = self._wait(self._send(name, args, tail, fds, None))
        return reply_of(reply), reply.tail

    def call_async(
        self, name: str, args: Mapping[str, Any], on_reply: OnReply, tail: Any = b"", fds: Sequence[int] = ()
    ) -> None:
        """Sends a syscall; `on_reply` is called on the reader thread, and must not make a `call` on this client."""
        self._start_reader()
        self._send(name, args, tail, fds, on_reply)

    def _send(
        self, name: str, args: Mapping[str, Any], tail: Any, fds: Sequence[int], on_reply: Optional[OnReply]
    ) -> int:
        number = NUMBERS[name]
        body = _json_form.encode(args)
        correlation = self._next()
        data = frame(number, correlation, body, len(tail), 0, len(fds))
        if on_reply is not None:
            with self._turn:
                self._callbacks[correlation] = on_reply
        try:
            with self._send_lock:
                if self._broken is not None:
                    raise self._broken
                try:
                    self._connection.send(data, tail, fds)
                except BaseException as e:
                    # Part of the frame may be out: nothing can follow it.
                    self._broken = e if isinstance(e, CloveError) else ConnectionLost("a call was cut off midway")
                    self._connection.close()
                    raise
        except BaseException:
            if on_reply is not None:
                with self._turn:
                    # When the reader has been there first, it has told the callback.
                    self._callbacks.pop(correlation, None)
            raise
        return correlation

    def _wait(self, correlation: int) -> Frame:
        try:
            with self._turn:
                while self._reading:
                    reply = self._replies.pop(correlation, None)
                    if reply is not None:
                        return reply
                    if self._broken is not None:
                        raise self._broken
                    if self.on_reader_thread():
                        raise RuntimeError("a call on the thread that reads the replies would wait for itself")
                    self._followers += 1
                    try:
                        self._turn.wait()
                    finally:
                        self._followers -= 1
                reply = self._replies.pop(correlation, None)
                if reply is not None:
                    return reply
                self._reading = True
            return self._lead(correlation)
        except CloveError:
            raise
        except BaseException:
            with self._turn:
                # A reply that comes all the same is dropped.
                if self._replies.pop(correlation, None) is None:
                    self._abandoned.add(correlation)
            raise

    def _lead(self, until: int) -> Frame:
        try:
            while True:
                if self._broken is not None:
                    raise self._broken
                reply = self._connection.receive()
                if reply.correlation == until:
                    return reply
                self._dispatch(reply)
        except CloveError as e:
            if self._broken is None:
                self._broken = e
            raise self._broken from None
        finally:
            with self._turn:
                self._reading = False
                if self._followers:
                    self._turn.notify_all()

    def _dispatch(self, reply: Frame) -> None:
        with self._turn:
            callback = self._callbacks.pop(reply.correlation, None)
            if callback is None:
                if reply.correlation in self._abandoned:
                    self._abandoned.discard(reply.correlation)
                elif reply.correlation == 0 and reply.flags:
                    # The kernel couldn't read what we sent, and closes the connection.
                    reply_of(reply)
                else:
                    self._replies[reply.correlation] = reply
                    self._turn.notify_all()
                return
        callback(reply)

    def on_reader_thread(self) -> bool:
        """Whether this is the thread that calls the callbacks of `call_async`."""
        return threading.current_thread() is self._thread

    def _start_reader(self) -> None:
        with self._turn:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._read_for_ever, name="cloveos-reader", daemon=True)
        self._thread.start()

    def _read_for_ever(self) -> None:
        with self._turn:
            while self._reading:
                self._followers += 1
                try:
                    self._turn.wait()
                finally:
                    self._followers -= 1
            self._reading = True
        error: CloveError
        try:
            while True:
                self._dispatch(self._connection.receive())
        except CloveError as e:
            error = e
        except (ValueError, KeyError, UnicodeDecodeError) as e:
            error = ConnectionLost(f"the kernel sent something malformed: {e}")
        with self._turn:
            if self._broken is None:
                self._broken = error
            error = self._broken
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
            self._turn.notify_all()
        for callback in callbacks:
            callback(error)

    def _forked(self) -> None:
        # The socket belongs to the parent: two processes on one connection would read each other's replies.
        self._broken = ConnectionLost("this client belongs to the parent process; make a new one after a fork")
        self._turn = threading.Condition(threading.Lock())
        self._send_lock = threading.Lock()
        self._thread = None
        self._connection.forget()


def _after_fork() -> None:
    for client in list(_everyone):
        client._forked()


os.register_at_fork(after_in_child=_after_fork)
