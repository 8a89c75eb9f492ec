"""A body's JSON, in which a number that JSON can't write travels as `{"$float": "nan" | "inf" | "-inf"}`."""

from __future__ import annotations

import json
import math
from typing import Any, Callable, Dict, List, NoReturn, Optional, Set

#: Key of the one-member object that stands for a float JSON can't write (`clove-abi/src/float.rs`).
FLOAT_KEY = "$float"
#: Deepest nesting of a result: what the frame allows (96), less what wraps the result in a call and in a reply.
MAX_RESULT_DEPTH = 80
#: Longest result as JSON, in bytes: a page of `run.tasks` has to hold it too.
MAX_RESULT_BYTES = 8 << 20

_SCAN = "scan_once"
_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
# The kernel reads integers as i64 or u64 and anything longer as a float, which would round it quietly.
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1


class NotStorable(TypeError):
    """A result can't be stored as JSON; the message names where in it, and what."""

    # People read this name; in which of our modules it lies says nothing to them.
    __module__ = "cloveos"


def too_long(length: int) -> NotStorable:
    """For a result of `length` bytes as JSON."""
    return NotStorable(
        f"result: {length / (1 << 20):.1f} MiB as JSON, and at most {MAX_RESULT_BYTES >> 20} MiB are kept; "
        "write it into a file in $CLOVE_OUT, and return what is to be listed"
    )


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"bare {word} in JSON")


_encode: Callable[[Any], str] = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
# `scan_once` is what `decode` calls between two searches for white space; typeshed doesn't name it.
_scan: Callable[[str, int], Any] = getattr(json.JSONDecoder(parse_constant=_refuse_constant), _SCAN)


def _hook(d: Dict[str, Any]) -> Any:
    if len(d) == 1:
        word = d.get(FLOAT_KEY)
        if isinstance(word, str) and word in _WORDS:
            return _WORDS[word]
    return d


_scan_floats: Callable[[str, int], Any] = getattr(
    json.JSONDecoder(parse_constant=_refuse_constant, object_hook=_hook), _SCAN
)


def encode(value: Any) -> bytes:
    """The body of a call. Plain values take the fast path; anything else goes through :func:`storable`."""
    try:
        return _encode(value).encode("ascii")
    except (ValueError, TypeError):
        return _encode(storable(value, "arguments")).encode("ascii")


def decode(body: str) -> Any:
    """A body as Python values."""
    try:
        value, end = (_scan_floats if FLOAT_KEY in body else _scan)(body, 0)
    except StopIteration as e:
        raise ValueError(f"no JSON value at byte {e.value}") from None
    if end != len(body):
        raise ValueError(f"something after the JSON value at byte {end}")
    return value


def encode_result(value: Any) -> Any:
    """What a task returned, as plain data that JSON holds exactly.

    Raises :class:`NotStorable`, naming the path of what can't be held.
    """
    return storable(value, "result")


def storable(value: Any, path: str, _depth: int = 0, _inside: Optional[Set[int]] = None) -> Any:
    """A copy of `value` made of dicts, lists, strings, ints, finite floats, bools and None.

    Numpy scalars and arrays (anything with `item` or `tolist`) become plain numbers and lists, tuples become lists.
    Numpy itself is never imported.
    """
    kind = type(value)
    if kind is float:
        return value if math.isfinite(value) else {FLOAT_KEY: _word(value)}
    if kind is bool or value is None:
        return value
    if isinstance(value, int):
        number = int(value)
        if _INT_MIN <= number <= _INT_MAX:
            return number
        raise NotStorable(f"{path}: an integer beyond 64 bits is not storable exactly; return str(n) or float(n)")
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, float):  # numpy.float64 is one
        number_f = float(value)
        return number_f if math.isfinite(number_f) else {FLOAT_KEY: _word(number_f)}
    if _depth > MAX_RESULT_DEPTH:
        raise NotStorable(f"{path[:200]}...: nested more than {MAX_RESULT_DEPTH} deep")
    inside = _inside if _inside is not None else set()
    if id(value) in inside:
        raise NotStorable(f"{path}: contains itself")
    inside.add(id(value))
    try:
        if isinstance(value, dict):
            return _dict(value, path, _depth, inside)
        if isinstance(value, (list, tuple)):
            return _list(value, path, _depth, inside)
        return _foreign(value, path, _depth, inside)
    finally:
        inside.discard(id(value))


def _word(x: float) -> str:
    return "nan" if x != x else "inf" if x > 0 else "-inf"


def _text(value: str, path: str) -> str:
    try:
        # A lone surrogate (from os.fsdecode, say) has no UTF-8, so the kernel's JSON refuses it.
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise NotStorable(
            f"{path}: text with bytes that aren't UTF-8 is not storable; use .encode('utf-8', 'surrogateescape').hex()"
        ) from None
    return str.__str__(value)


def _dict(value: Dict[Any, Any], path: str, depth: int, inside: Set[int]) -> Dict[str, Any]:
    out: Dict[str, Any] = {}
    for key, item in value.items():
        name = _key(key, path)
        if name in out:
            raise NotStorable(f"{path}: two keys become the same text {name!r}")
        out[name] = storable(item, f"{path}[{_encode(name[:60])}]", depth + 1, inside)
    return out


def _key(key: Any, path: str) -> str:
    if isinstance(key, str):
        return _text(key, path)
    item = getattr(key, "item", None)
    if callable(item):
        key = item()
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int):
        return str(int(key))
    if isinstance(key, float):
        return repr(float(key))
    if key is None:
        return "null"
    raise NotStorable(f"{path}: a key of type {type(key).__name__} is not storable as JSON; use text")


def _list(value: Any, path: str, depth: int, inside: Set[int]) -> List[Any]:
    kinds = set(map(type, value))
    # Long flat lists of numbers are common and needn't be walked in Python.
    if kinds == {float} and all(map(math.isfinite, value)):
        return list(value)
    if kinds == {int} and min(value) >= _INT_MIN and max(value) <= _INT_MAX:
        return list(value)
    if kinds <= {bool, type(None)}:
        return list(value)
    return [storable(item, f"{path}[{i}]", depth + 1, inside) for i, item in enumerate(value)]


def _foreign(value: Any, path: str, depth: int, inside: Set[int]) -> Any:
    kind = type(value)
    # A pandas object has tolist too, but its index would be lost without a word.
    if not hasattr(value, "iloc"):
        for method in ("item", "tolist"):
            convert = getattr(value, method, None)
            if not callable(convert) or isinstance(value, type):
                continue
            try:
                plain = convert()
            except (TypeError, ValueError, RuntimeError):
                continue  # an array of more than one element has no item()
            if type(plain) is not kind:
                return storable(plain, path, depth + 1, inside)
    raise NotStorable(f"{path}: {kind.__name__} is not storable as JSON; {_advice(value)}")


def _advice(value: Any) -> str:
    if isinstance(value, (set, frozenset)):
        return "return sorted(...) of it"
    if hasattr(value, "iloc"):
        return "return .to_dict() of it, or write it to $CLOVE_OUT"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "return .hex() of it, or write it to $CLOVE_OUT"
    if hasattr(value, "__fspath__") or hasattr(value, "isoformat"):
        return "return str() of it"
    return "return numbers, strings, lists or dicts"
