"""Results of hostile agents execute nothing and can't exhaust the caller; ordinary ones come back as they were."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import fractions
import functools
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

import cloveos
from cloveos import UntrustedResult, _results

ORDINARY = [
    1, 2.5, "x", b"y", None, True, [1, (2, 3)], {1: {2}}, frozenset([1]), 10**30, -(10**300), 1 + 2j, range(3),
    slice(1, 2), bytearray(b"abc"), decimal.Decimal("1.50"), fractions.Fraction(1, 3), uuid.UUID(int=5),
    pathlib.Path("/a/b"), pathlib.PurePosixPath("c"), pathlib.PureWindowsPath("c:/x"), dt.date(2024, 2, 29),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc), dt.datetime(2024, 1, 1, 2, fold=1), dt.time(1, 2),
    dt.timedelta(1.5), dt.timezone(dt.timedelta(hours=2), "X"), collections.OrderedDict(a=1),
    collections.Counter("aab"), collections.deque([1, 2], 5), collections.defaultdict(list, {1: [2]}),
    ValueError("x", 1), FileNotFoundError(2, "no", "f"), KeyError("k"), ..., float("nan"), float("-inf"),
    UnicodeDecodeError("utf8", b"\xff", 0, 1, "bad"), [float(i) for i in range(100)], list(range(70000)),
    ["\udc80"], "x" * 100_000, b"x" * 100_000, {"a": [{"b": None}] * 3}, StopIteration(1), ZeroDivisionError(),
]  # fmt: skip


@pytest.mark.parametrize("value", ORDINARY, ids=lambda v: repr(v)[:30])
def test_ordinary_values_come_back(value: Any) -> None:
    back = _results.loads(_results.dumps(value))
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_shared_and_recursive_values_stay_so() -> None:
    inner: list = [1]
    back = _results.loads(_results.dumps([inner, inner]))
    assert back[0] is back[1]
    loop: list = []
    loop.append((loop,))
    back = _results.loads(_results.dumps(loop))
    assert back[0][0] is back
    table: dict = {}
    table["me"] = table
    back = _results.loads(_results.dumps(table))
    assert back["me"] is back


def test_numpy_values_come_back() -> None:
    np = pytest.importorskip("numpy")
    for value in [
        np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.float32(1.5), np.bool_(True),
        np.array("x"), np.array([], float), np.zeros(3, dtype=[("a", "<f4"), ("b", "<i8", (2,))]),
        np.array([{"a": 1}, None], object), np.dtype("f8"), np.datetime64("2020-01-01"), np.zeros((0, 3)), np.array(5),
        np.array(["2020"], "M8[D]"), np.arange(10)[::2], np.array([True, False]), np.array([1 + 2j]), np.str_("é"),
        np.arange(3, dtype=">i2"), np.array([b"ab"]), np.float16(0.5),
    ]:  # fmt: skip
        back = _results.loads(_results.dumps(value))
        assert type(back) is type(value)
        assert repr(back) == repr(value)
    back = _results.loads(_results.dumps({"a": np.zeros(3)}))
    back["a"][0] = 1  # it can be written


def test_what_is_not_plain_names_its_class_and_the_way_out() -> None:
    class Model:
        pass

    for value in (Model(), Model, lambda: 1, os.system, functools.partial(print), sys, io.BytesIO()):
        with pytest.raises(TypeError, match="trust_results=True"):
            _results.dumps([value])
    with pytest.raises(TypeError, match=r"object of class test_results\.\S*Model"):
        _results.dumps(Model())


# ------------------------------------------------------------------------------------------------- hostile pickles

PROTO4 = b"\x80\x04"


def text(s: str) -> bytes:
    data = s.encode()
    return (b"\x8c" + bytes([len(data)]) if len(data) < 256 else b"X" + struct.pack("<I", len(data))) + data


def stack_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def ours(name: str) -> bytes:
    return stack_global("cloveos._results", "make_" + name)


class Reducer:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def executing(marker: str) -> Dict[str, Callable[[int], bytes]]:
    """Pickles that make the file `marker` when plain pickle loads them, for each protocol."""
    shell = f"touch {marker}"
    code = f"open({marker!r}, 'w')"
    return {
        "os.system": lambda p: pickle.dumps(Reducer(os.system, (shell,)), p),
        "eval": lambda p: pickle.dumps(Reducer(eval, (code,)), p),
        "exec": lambda p: pickle.dumps(Reducer(exec, (code,)), p),
        "subprocess": lambda p: pickle.dumps(Reducer(subprocess.getoutput, (shell,)), p),
        "in a list": lambda p: pickle.dumps([1, {"a": (Reducer(os.system, (shell,)),)}], p),
        "open": lambda p: pickle.dumps(Reducer(open, (marker, "w")), p),
        "partial": lambda p: pickle.dumps(Reducer(functools.partial(os.system, shell), ()), p),
        "mkdir": lambda p: pickle.dumps(Reducer(os.mkdir, (marker,)), p),
        "Popen": lambda p: pickle.dumps(Reducer(subprocess.Popen, (["touch", marker],)), p),
    }


def hand_made(marker: str) -> Dict[str, bytes]:
    """Pickles that no pickler writes; each makes the file `marker` under plain pickle."""
    shell = f"touch {marker}"
    return {
        "GLOBAL": b"cos\nsystem\n" + b"(V" + shell.encode() + b"\ntR.",
        "INST": b"(V" + shell.encode() + b"\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nV" + shell.encode() + b"\no.",
        "STACK_GLOBAL": PROTO4 + stack_global("posix", "system") + text(shell) + b"\x85R.",
        "dotted name": PROTO4 + stack_global("os", "path.os.system") + text(shell) + b"\x85R.",
        "dotted through ours": PROTO4 + stack_global("cloveos._results", "pickle.sys.modules") + b"0"
        + stack_global("cloveos._results", "builtins.exec") + text(f"open({marker!r}, 'w')") + b"\x85R.",
        "getattr": PROTO4 + stack_global("builtins", "getattr") + stack_global("os", "path") + text("os") + b"\x86R"
        + b"\x940" + stack_global("builtins", "getattr") + b"h\x00" + text("system") + b"\x86R"
        + text(shell) + b"\x85R.",
        "attrgetter": PROTO4 + stack_global("operator", "attrgetter") + text("os.system") + b"\x85R"
        + stack_global("os", "path") + b"\x85R" + text(shell) + b"\x85R.",
        "memo of a name": PROTO4 + text("posix") + b"\x94" + text("system") + b"\x94" + b"h\x00h\x01\x93"
        + text(shell) + b"\x85R.",
        "BUILD": PROTO4 + stack_global("types", "SimpleNamespace") + b")R" + b"}" + text("x")
        + stack_global("posix", "system") + text(shell) + b"\x85R" + b"sb.",
        "NEWOBJ": PROTO4 + stack_global("subprocess", "Popen") + b")\x810" + stack_global("posix", "system")
        + text(shell) + b"\x85R.",
        "after a value": b"\x80\x04K\x01.",
    }  # fmt: skip


def refused(data: bytes) -> None:
    with pytest.raises(UntrustedResult):
        _results.loads(data)


def load_plainly(data: bytes) -> None:
    """The positive control, in a process of its own that finds this library without its being installed."""
    folder = str(Path(cloveos.__file__).resolve().parent.parent)
    subprocess.run(
        [sys.executable, "-c", "import sys,pickle,os; pickle.loads(sys.stdin.buffer.read())"],
        input=data, capture_output=True, check=False, env={**os.environ, "PYTHONPATH": folder},
    )  # fmt: skip


def test_no_reducer_executes(tmp_path: Path) -> None:
    marker = str(tmp_path / "executed")
    for name, make in executing(marker).items():
        for protocol in range(6):
            data = make(protocol)
            refused(data)
            assert not os.path.exists(marker), name
        load_plainly(data)
        deadline = time.monotonic() + 10
        while not os.path.exists(marker) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert os.path.exists(marker), f"{name}: the control must execute"
        os.rmdir(marker) if os.path.isdir(marker) else os.remove(marker)


def test_no_hand_made_pickle_executes(tmp_path: Path) -> None:
    marker = str(tmp_path / "executed")
    for name, data in hand_made(marker).items():
        if name == "after a value":
            refused(data + hand_made(marker)["GLOBAL"])
            continue
        refused(data)
        assert not os.path.exists(marker), name
        load_plainly(data)
        assert os.path.exists(marker), f"{name}: the control must execute"
        os.remove(marker)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("persistent id", b"Pabc\n."),
        ("binary persistent id", PROTO4 + b"K\x01Q."),
        ("extension code", PROTO4 + b"\x82\x01."),
        ("extension code 2", PROTO4 + b"\x83\x01\x00."),
        ("extension code 4", PROTO4 + b"\x84\x01\x00\x00\x00."),
        ("out-of-band buffer", b"\x80\x05\x97."),
        ("readonly buffer", b"\x80\x05C\x01a\x98."),
        ("old protocol", pickle.dumps([1], 2)),
        ("no protocol", pickle.dumps([1], 0)),
        ("nothing", b""),
        ("no stop", PROTO4 + b"K\x01"),
        ("two values", PROTO4 + b"K\x01K\x02."),
        ("a mark as the value", PROTO4 + b"(."),
        ("pops too much", PROTO4 + b"0."),
        ("append to nothing", PROTO4 + b"K\x01a."),
        ("reduce without", PROTO4 + b"R."),
        ("setitems below", PROTO4 + b"(K\x01K\x02u."),
        ("memo that isn't there", PROTO4 + b"h\x05."),
        ("memo that isn't there, long", PROTO4 + b"j\xff\xff\xff\xff."),
        ("put of a huge memo index", PROTO4 + b"K\x01r\xff\xff\xff\xff."),
        ("text put", PROTO4 + b"K\x01p4294967295\n."),
        ("bytearray of 2**62 bytes", b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b"abc."),
        ("bytearray of 64 GiB", b"\x80\x05\x96" + struct.pack("<Q", 64 << 30) + b"abc."),
        ("bytes of 2**63 bytes", PROTO4 + b"\x8e" + struct.pack("<Q", 1 << 63) + b"abc."),
        ("text of 2**62", PROTO4 + b"\x8d" + struct.pack("<Q", 1 << 62) + b"abc."),
        ("text of 4 GiB", PROTO4 + b"X\xff\xff\xff\xffabc."),
        ("long of 2 GiB", PROTO4 + b"\x8b\xff\xff\xff\x7fabc."),
        ("frame of 2**62", PROTO4 + b"\x95" + struct.pack("<Q", 1 << 62) + b"K\x01."),
        ("DUP", PROTO4 + b"K\x012\x86."),
        ("a name that isn't text", PROTO4 + b"K\x01K\x02\x93."),
        ("reduce of a number", PROTO4 + b"K\x01)R."),
        ("unhashable key", PROTO4 + b"}](K\x01es."),
        ("setitem on a list", PROTO4 + b"]K\x01K\x02s."),
        ("append to a number", PROTO4 + b"K\x01(K\x02e."),
        ("a whole range as list", PROTO4 + stack_global("builtins", "list") + b"."),
        ("builtins.bytearray", PROTO4 + stack_global("builtins", "bytearray") + b"M\xff\xff\x85R."),
        ("our private helper", PROTO4 + stack_global("cloveos._results", "_exact") + b"."),
        ("our module's os", PROTO4 + stack_global("cloveos._results", "pickle") + b"."),
        ("a fraction from text", PROTO4 + ours("fraction") + text("1e999999999") + b"K\x01\x86R."),
        ("SystemExit", PROTO4 + ours("exception") + text("SystemExit") + b")\x86R."),
        ("KeyboardInterrupt", PROTO4 + ours("exception") + text("KeyboardInterrupt") + b")\x86R."),
        ("eval as an exception", PROTO4 + ours("exception") + text("eval") + text("1") + b"\x85\x86R."),
        ("object as an exception", PROTO4 + ours("exception") + text("object") + b")\x86R."),
        ("factory", PROTO4 + ours("defaultdict") + text("eval") + b"\x85R."),
        ("wrong arity", PROTO4 + ours("uuid") + b")R."),
        ("year 0", PROTO4 + ours("date") + b"K\x00K\x01K\x01\x87R."),
        ("random garbage", bytes(range(256))),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_refused(name: str, data: bytes) -> None:
    started = time.monotonic()
    refused(data)
    assert time.monotonic() - started < 2


NUMPY = {
    "object dtype from bytes": ours("array") + text("|O") + b"K\x01\x85" + text("C") + b"\x96" + struct.pack("<Q", 8) + b"A" * 8 + b"tR.",
    "object dtype in a field": ours("array") + b"](" + text("a") + text("|O") + b"\x86e" + b"K\x01\x85" + text("C") + b"\x96" + struct.pack("<Q", 8) + b"A" * 8 + b"tR.",
    "dict dtype with offsets": ours("dtype") + b"}\x85R.",
    "shape beyond the data": ours("array") + text("<f8") + b"J\xff\xff\xff\x7f\x85" + text("C") + b"\x96" + struct.pack("<Q", 8) + b"A" * 8 + b"tR.",
    "negative shape": ours("array") + text("<f8") + b"J\xff\xff\xff\xff\x85" + text("C") + b"\x96" + struct.pack("<Q", 8) + b"A" * 8 + b"tR.",
    "half an element": ours("array") + text("<f8") + b"K\x01\x85" + text("C") + b"\x96" + struct.pack("<Q", 7) + b"A" * 7 + b"tR.",
    "short scalar": ours("scalar") + text("<f8") + b"C\x04AAAA\x86R.",
    "a field of 2**40": ours("dtype") + b"](" + text("a") + text("<f8") + b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85\x87e\x85R.",
    "reconstruct": stack_global("numpy.core.multiarray", "_reconstruct") + b".",
    "numpy.dtype": stack_global("numpy", "dtype") + b".",
    "numpy.load": stack_global("numpy", "load") + text("/etc/passwd") + b"\x85R.",
}  # fmt: skip


@pytest.mark.parametrize("name", NUMPY)
def test_numpy_is_not_led_out_of_bounds(name: str) -> None:
    pytest.importorskip("numpy")
    data = NUMPY[name]
    if data.endswith(b"tR."):
        at = data.index(b"\x93") + 1
        data = data[:at] + b"(" + data[at:]
    refused(PROTO4.replace(b"\x04", b"\x05") + data)


def test_a_raw_numpy_pickle_is_refused_with_advice() -> None:
    np = pytest.importorskip("numpy")
    for protocol in (4, 5):
        with pytest.raises(UntrustedResult, match="trust_results=True|opcode"):
            _results.loads(pickle.dumps(np.arange(3), protocol))


def test_deep_tuples_do_not_overflow_the_stack() -> None:
    deep = b")" + b"\x85" * 1_000_000
    refused(PROTO4 + deep + b".")
    refused(PROTO4 + b"}" + deep + b"K\x01s.")
    refused(PROTO4 + b")" + b"\x94" + b"".join(b"(j" + struct.pack("<I", i) + b"\x91\x94" for i in range(5000)) + b".")
    # Lists may be deep: nothing recurses over them without a check.
    value = _results.loads(PROTO4 + b"]" * 100_000 + b"a" * 99_999 + b".")
    assert isinstance(value, list)


def test_tuples_that_share_their_parts_exponentially() -> None:
    bomb = PROTO4 + b")\x94" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94" for i in range(100))
    started = time.monotonic()
    refused(PROTO4 + b"}" + bomb[2:] + b"K\x01s.")
    refused(bomb + b"0" * 100 + b".")
    assert time.monotonic() - started < 2


def test_constructors_cannot_multiply_what_was_sent() -> None:
    pytest.importorskip("numpy")
    n = 100_000
    items = b"](" + b"K\x01" * n + b"e\x94"
    once = ours("objects") + b"J" + struct.pack("<i", n) + b"\x85h\x00\x86R"
    with pytest.raises(UntrustedResult, match="grow far beyond"):
        _results.loads(PROTO4 + b"(" + items + once * 50_000 + b"t.")


def test_the_caller_is_not_changed_by_attributes() -> None:
    # BUILD could set attributes of functions and classes that the caller uses.
    refused(PROTO4 + ours("uuid") + b"}" + text("__defaults__") + b")sb.")
    refused(PROTO4 + ours("counter") + b")R" + b"N}" + text("update") + b"K\x01s\x86b.")


def test_random_changes_never_execute_nor_hang(tmp_path: Path) -> None:
    import random

    rng = random.Random(20240607)
    base = [_results.dumps(v) for v in ORDINARY if v is not ...]
    base = [b for b in base if len(b) < 2000]
    started = time.monotonic()
    for _ in range(6000):
        data = bytearray(rng.choice(base))
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            _results.loads(bytes(data))
        except UntrustedResult:
            pass
    assert time.monotonic() - started < 60


def test_large_results_are_fast() -> None:
    floats = [float(i) for i in range(1_000_000)]
    data = _results.dumps(floats)
    started = time.monotonic()
    assert _results.loads(data) == floats
    assert time.monotonic() - started < 5
