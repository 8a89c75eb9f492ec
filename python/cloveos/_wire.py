"""Frames on a unix socket: a 24-byte header, a JSON body, a raw tail (`clove-abi/src/frame.rs`)."""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import Any, NamedTuple, Sequence

from . import _json_form
from .errors import ConnectionLost, SysError

VERSION = 1
HEADER_LEN = 24
MAX_BODY = 16 << 20
MAX_TAIL = 64 << 20
FLAG_REPLY = 1
FLAG_ERROR = 2

# body length, tail length, version, flags, number, descriptors, 3 zero bytes, correlation id
_HEADER = struct.Struct("<IIBBHB3xQ")
_pack = _HEADER.pack
_unpack_from = _HEADER.unpack_from
_BUFFER = 64 << 10


class Frame(NamedTuple):
    """One decoded frame; `body` is undecoded JSON."""

    correlation: int
    number: int
    flags: int
    body: str
    tail: bytes


def frame(number: int, correlation: int, body: bytes, tail_len: int = 0, flags: int = 0, fds: int = 0) -> bytes:
    """Header and body as one piece."""
    if len(body) > MAX_BODY:
        raise SysError(
            "E0103",
            f"the body has {len(body)} bytes, at most {MAX_BODY} go",
            "pass large values as bytes or files",
        )
    if tail_len > MAX_TAIL:
        raise SysError("E0103", f"the tail has {tail_len} bytes, at most {MAX_TAIL} go", "store it as a blob first")
    return _pack(len(body), tail_len, VERSION, flags, number, fds, correlation) + body


def reply_of(f: Frame) -> Any:
    """The value that a reply carries; raises :class:`SysError` when it is an error."""
    value = _json_form.decode(f.body) if f.body else {}
    if f.flags & FLAG_ERROR:
        raise SysError(str(value.get("code")), str(value.get("message")), str(value.get("hint") or ""))
    return value


class Connection:
    """Sends and receives frames on a connected stream socket. Not for several threads: see `Client`.

    A receive that is interrupted by an exception (Ctrl-C) goes on where it was with the next one.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._view = memoryview(bytearray(_BUFFER))
        self._start = 0
        self._end = 0
        # A frame that is longer than the buffer, and how much of it has come.
        self._large: memoryview = memoryview(b"")
        self._large_at = 0

    def fileno(self) -> int:
        """The descriptor, or -1 when closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Closes the socket; a thread that waits in `receive` gets `ConnectionLost`."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._sock.close()

    def forget(self) -> None:
        """Closes this process's descriptor and leaves the connection as it is: after a fork it is the parent's."""
        fd = self._sock.detach()
        if fd >= 0:
            os.close(fd)

    def send(self, data: bytes, tail: Any = b"", fds: Sequence[int] = ()) -> None:
        """Sends header and body, and a tail, with descriptors on the first byte."""
        try:
            if fds:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                sent = self._sock.sendmsg([data, tail], rights)
                self._rest(data, tail, sent)
            elif not tail:
                self._sock.sendall(data)
            elif len(tail) < _BUFFER:
                self._sock.sendall(b"".join((data, tail)))
            else:
                self._rest(data, tail, self._sock.sendmsg([data, tail]))
        except OSError as e:
            raise ConnectionLost(f"the kernel closed the connection: {e}") from None

    def _rest(self, data: bytes, tail: Any, sent: int) -> None:
        if sent < len(data):
            self._sock.sendall(data[sent:])
            sent = len(data)
        if sent - len(data) < len(tail):
            self._sock.sendall(memoryview(tail)[sent - len(data) :])

    def receive(self) -> Frame:
        """Waits for the next frame."""
        if self._large:
            return self._receive_large()
        while self._end - self._start < HEADER_LEN:
            self._more()
        start = self._start
        body_len, tail_len, version, flags, number, _, correlation = _unpack_from(self._view, start)
        if version != VERSION:
            raise SysError(
                "E0104",
                f"the kernel speaks version {version} of the wire, this library {VERSION}",
                "run `clove stop` once, and update the older of the two",
            )
        total = HEADER_LEN + body_len + tail_len
        if total > _BUFFER:
            if body_len > MAX_BODY or tail_len > MAX_TAIL:
                raise SysError("E0101", f"a frame of {body_len} + {tail_len} bytes came, beyond the bounds")
            self._large = memoryview(bytearray(total))
            self._large_at = self._end - start
            self._large[: self._large_at] = self._view[start : self._end]
            self._start = self._end = 0
            return self._receive_large()
        while self._end - start < total:
            self._more()
            start = self._start
        body_at = start + HEADER_LEN
        tail_at = body_at + body_len
        body = str(self._view[body_at:tail_at], "utf-8")
        tail = bytes(self._view[tail_at : start + total]) if tail_len else b""
        self._start = start + total
        if self._start == self._end:
            self._start = self._end = 0
        return Frame(correlation, number, flags, body, tail)

    def _receive_large(self) -> Frame:
        large = self._large
        while self._large_at < len(large):
            got = self._into(large[self._large_at :])
            self._large_at += got
        self._large = memoryview(b"")
        body_len, _, _, flags, number, _, correlation = _unpack_from(large, 0)
        tail_at = HEADER_LEN + body_len
        return Frame(correlation, number, flags, str(large[HEADER_LEN:tail_at], "utf-8"), bytes(large[tail_at:]))

    def _more(self) -> None:
        if self._start and (self._start == self._end or self._end == _BUFFER or self._start > _BUFFER // 2):
            left = self._end - self._start
            # Through bytes, as the two slices may overlap.
            self._view[:left] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, left
        self._end += self._into(self._view[self._end :] if self._end else self._view)

    def _into(self, view: memoryview) -> int:
        try:
            got = self._sock.recv_into(view)
        except OSError as e:
            raise ConnectionLost(f"the connection to the kernel broke: {e}") from None
        if not got:
            raise ConnectionLost("the kernel closed the connection: it was stopped, or it died")
        return got
