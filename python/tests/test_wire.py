"""Frames and calls: what goes out, what comes back, in pieces, from many threads, after an interruption."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any, Iterator, Tuple

import pytest
from fake_kernel import FakeKernel

from cloveos import Client, ConnectionLost, SysError, _blobs, _json_form, _wire
from cloveos._calls import NUMBERS

TABLE = Path(__file__).parents[2] / "crates" / "clove-abi" / "src" / "table.rs"


@pytest.mark.skipif(not TABLE.exists(), reason="the kernel's sources aren't here")
def test_the_numbers_are_those_of_the_one_table() -> None:
    text = TABLE.read_text()
    rows = text[text.index("macro_rules! syscall_table") :].split("macro_rules! derive_table")[0]
    found, family = {}, ""
    for line in rows.splitlines():
        head = re.match(r"\s{12}(\w+) \{$", line)
        row = re.match(r"\s+(0x[0-9a-f]{4}) (\w+) \w+ -> ", line)
        if head:
            family = head.group(1)
        elif row:
            found[f"{family}.{row.group(2)}"] = int(row.group(1), 16)
    # A newer kernel may have more rows than this library calls.
    assert {name: found.get(name) for name in NUMBERS} == NUMBERS


def test_header_layout() -> None:
    data = _wire.frame(0x0203, 0x0102030405060708, b"{}", tail_len=9, flags=1, fds=2)
    assert data == bytes.fromhex("02000000 09000000 01 01 0302 02 000000 0807060504030201") + b"{}"


def test_bounds_are_checked_before_sending() -> None:
    with pytest.raises(SysError, match="E0103: the body has"):
        _wire.frame(1, 1, b" " * (_wire.MAX_BODY + 1))
    with pytest.raises(SysError, match="store it as a blob"):
        _wire.frame(1, 1, b"{}", _wire.MAX_TAIL + 1)


@pytest.fixture
def pair() -> Iterator[Tuple[_wire.Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with theirs:
        connection = _wire.Connection(ours)
        yield connection, theirs
        connection.close()


def reply(correlation: int, value: Any, tail: bytes = b"", flags: int = 1) -> bytes:
    return _wire.frame(0x0103, correlation, json.dumps(value).encode(), len(tail), flags) + tail


@pytest.mark.parametrize("size", [0, 1, 1000, 65_500, 65_536, 200_000, 3 << 20])
def test_frames_of_any_size_in_any_pieces(pair: Tuple[_wire.Connection, socket.socket], size: int) -> None:
    connection, theirs = pair
    frames = [reply(i, {"n": i}, os.urandom(size)) for i in range(5)]

    def feed() -> None:
        data = b"".join(frames)
        step = max(1, len(data) // 37)
        for at in range(0, len(data), step):
            theirs.sendall(data[at : at + step])

    thread = threading.Thread(target=feed)
    thread.start()
    for i, sent in enumerate(frames):
        got = connection.receive()
        assert (got.correlation, _wire.reply_of(got)) == (i, {"n": i})
        assert got.tail == sent[len(sent) - size :]
    thread.join()


def test_byte_by_byte(pair: Tuple[_wire.Connection, socket.socket]) -> None:
    connection, theirs = pair
    data = reply(1, {"a": 1}, b"tail") + reply(2, {"b": 2})

    def feed() -> None:
        for byte in data:
            theirs.send(bytes([byte]))

    thread = threading.Thread(target=feed)
    thread.start()
    assert [connection.receive().correlation for _ in range(2)] == [1, 2]
    thread.join()


def test_errors_and_ends(pair: Tuple[_wire.Connection, socket.socket]) -> None:
    connection, theirs = pair
    theirs.sendall(reply(1, {"code": "E0201", "message": "no agent a1.1", "hint": "clove ps -a"}, flags=3))
    with pytest.raises(SysError, match=r"E0201: no agent a1\.1 \(clove ps -a\)") as caught:
        _wire.reply_of(connection.receive())
    assert (caught.value.code, caught.value.hint) == ("E0201", "clove ps -a")
    theirs.sendall(struct.pack("<IIBBHB3xQ", 2, 0, 9, 1, 1, 0, 1) + b"{}")
    with pytest.raises(SysError, match="E0104.*version 9"):
        connection.receive()
    theirs.close()
    fresh, theirs2 = socket.socketpair()
    theirs2.sendall(b"half")
    theirs2.close()
    with pytest.raises(ConnectionLost):
        _wire.Connection(fresh).receive()


@pytest.mark.parametrize("x", [0.0, -1.5, math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308])
def test_every_float_survives(x: float) -> None:
    for value in (x, [x], {"a": {"b": [x, 1]}}):
        data = _json_form.encode(value)
        json.loads(data, parse_constant=lambda w: pytest.fail(f"bare {w}"))
        assert repr(_json_form.decode(data.decode())) == repr(value)


def test_the_form_of_a_float_is_the_kernels() -> None:
    assert _json_form.encode([math.nan, math.inf]) == b'[{"$float":"nan"},{"$float":"inf"}]'
    assert _json_form.decode('{"$float":"no"}') == {"$float": "no"}
    for bad in ("NaN", "[Infinity]", "{} x", "", "{"):
        with pytest.raises(ValueError, match="."):
            _json_form.decode(bad)


class FakeScalar:
    """Stands for numpy's, which needn't be installed."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def item(self) -> Any:
        return self.value


class FakeArray:
    def item(self) -> Any:
        raise ValueError("more than one element")

    def tolist(self) -> Any:
        return [[1, 2], [3.5, math.nan]]


class LogisticRegression:
    pass


def test_results_become_plain_data() -> None:
    value = {"a": FakeScalar(3), "b": FakeArray(), "c": (1, None), 5: True, "d": math.inf, FakeScalar(7): "x"}
    assert _json_form.encode_result(value) == {
        "a": 3, "b": [[1, 2], [3.5, {"$float": "nan"}]], "c": [1, None], "5": True, "d": {"$float": "inf"}, "7": "x",
    }  # fmt: skip


def test_numpy_results() -> None:
    np = pytest.importorskip("numpy")
    value = {
        "f": np.float32(0.5), "d": np.float64(2.5), "i": np.int64(3), "b": np.bool_(True), "a": np.arange(3),
        "n": np.array([1.0, np.nan]), np.int64(4): np.str_("x"), "m": [np.int8(1), np.float64("inf")],
    }  # fmt: skip
    plain = _json_form.encode_result(value)
    assert plain == {
        "f": 0.5, "d": 2.5, "i": 3, "b": True, "a": [0, 1, 2], "n": [1.0, {"$float": "nan"}], "4": "x",
        "m": [1, {"$float": "inf"}],
    }  # fmt: skip
    json.dumps(plain, allow_nan=False)


LOOP: list = []
LOOP.append(LOOP)
DEEP: Any = 1
for _ in range(200):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"model": LogisticRegression()},
            r'^result\["model"\]: LogisticRegression is not storable as JSON; return numbers, strings, lists or dicts$',
        ),
        ({"a": [1, {2, 3}]}, r'^result\["a"\]\[1\]: set is not storable as JSON; return sorted'),
        ([b"x"], r"^result\[0\]: bytes .*hex"),
        (Path("/x"), r"^result: PosixPath .*str\(\)"),
        ({"n": 10**30}, r'result\["n"\]: an integer beyond 64 bits'),
        ({1: 0, "1": 1}, "two keys become the same text '1'"),
        ({(1, 2): 0}, "a key of type tuple"),
        (["\udc80"], r"result\[0\]: text with bytes that aren't UTF-8"),
        (LOOP, "contains itself"),
        (DEEP, "nested more than"),
        (LogisticRegression, "result: type is not storable"),
    ],
)
def test_what_cannot_be_stored_is_named_by_its_path(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        _json_form.encode_result(value)


def test_calls_of_many_threads_share_a_connection(kernel: FakeKernel) -> None:
    with Client() as client:
        assert client.kernel["abi"] == 1
        wrong = []

        def work(n: int) -> None:
            for i in range(100):
                body, tail = client.call("kernel.ping", {"n": n, "i": i}, b"%d" % i)
                if body["echo"] != {"n": n, "i": i} or tail != b"%d" % i:
                    wrong.append((n, i))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not wrong


def test_a_call_that_waits_holds_up_no_other(kernel: FakeKernel) -> None:
    with Client() as client:
        ended = []
        slow = threading.Thread(
            target=lambda: ended.append(client.call("proc.wait", {"target": "a", "timeout_ms": 1500}))
        )
        slow.start()
        time.sleep(0.1)
        started = time.monotonic()
        client.call("kernel.ping", {})
        assert time.monotonic() - started < 1
        slow.join()
        assert ended


def test_asynchronous_calls(kernel: FakeKernel) -> None:
    with Client() as client:
        got = []
        event = threading.Event()

        def on_reply(reply: Any) -> None:
            got.append(_wire.reply_of(reply))
            if len(got) == 10:
                event.set()

        for i in range(10):
            client.call_async("kernel.ping", {"i": i}, on_reply)
        assert client.call("kernel.ping", {"x": 1})[0] == {"echo": {"x": 1}}
        assert event.wait(10)
        assert [g["echo"]["i"] for g in got] == list(range(10))
        client.call_async("proc.wait", {"target": "a", "timeout_ms": 60_000}, lambda r: (got.append(r), event.set()))
        event.clear()
    assert event.wait(10)
    assert isinstance(got[-1], ConnectionLost)


def test_an_interrupted_call_leaves_the_client_usable(kernel: FakeKernel) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Client() as client:
            for _ in range(5):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                with pytest.raises(KeyboardInterrupt):
                    client.call("proc.wait", {"target": "a", "timeout_ms": 600})
                assert client.call("kernel.ping", {"a": 1})[0] == {"echo": {"a": 1}}
            time.sleep(1)
            assert client.call("kernel.ping", {"a": 2})[0] == {"echo": {"a": 2}}
            assert not client._abandoned
            assert not client._replies
    finally:
        signal.signal(signal.SIGALRM, old)


def test_a_forked_child_keeps_its_hands_off(kernel: FakeKernel) -> None:
    with Client() as client:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                client.call("kernel.ping", {})
            except ConnectionLost as e:
                code = 0 if "fork" in str(e) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        client.call("kernel.ping", {})


def test_closed_and_missing_kernels(kernel: FakeKernel) -> None:
    client = Client()
    client.close()
    with pytest.raises(ConnectionLost, match="was closed"):
        client.call("kernel.ping", {})
    other = Client()
    kernel.stop()
    with pytest.raises(ConnectionLost):
        other.call("kernel.ping", {})
    with pytest.raises(ConnectionLost, match="no kernel answers at"):
        Client()


@pytest.mark.parametrize("size", [0, 5, 1 << 20, (1 << 20) + 1, (33 << 20) + 7])
def test_blobs(kernel: FakeKernel, size: int) -> None:
    data = os.urandom(1 << 16) * (size >> 16) + b"x" * (size & 0xFFFF)
    with Client() as client:
        before = os.listdir("/proc/self/fd")
        digest = _blobs.put(client.call, data)
        assert len(os.listdir("/proc/self/fd")) == len(before)
        assert _blobs.get(client.call, digest) == data
        assert kernel.blob_fds == (1 if size > 1 << 20 else 0)
        with pytest.raises(SysError, match="E0205"):
            _blobs.get(client.call, "0" * 64)


def test_finding_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloveos import KernelNotFound, _locate

    monkeypatch.delenv("CLOVE_SOCKET", raising=False)
    monkeypatch.delenv("CLOVE_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KernelNotFound, match="CLOVE_BIN"):
        Client()
    fake = tmp_path / "clove"
    fake.write_text('#!/bin/sh\n[ "$*" = "kernel socket --start" ] && echo /run/x/k.sock\n')
    fake.chmod(0o755)
    assert _locate.socket_path() == "/run/x/k.sock"
    fake.write_text("#!/bin/sh\necho 'clove: the disk is full' >&2\nexit 125\n")
    with pytest.raises(KernelNotFound, match="code 125: clove: the disk is full"):
        Client()
    monkeypatch.setenv("CLOVE_BIN", "/no/such")
    with pytest.raises(KernelNotFound, match="CLOVE_BIN names '/no/such'"):
        Client()
    monkeypatch.setenv("CLOVE_BIN", str(fake))
    monkeypatch.setenv("PATH", "")
    assert _locate.program() == str(fake)
