"""Reads a pickle's opcodes before anything is built, and refuses what could harm the process that builds it.

The C unpickler believes what it reads: a memo index of four bytes makes it allocate and clear 64 GiB, a length of
eight bytes an array of that size, and a tuple nested a million deep as a dictionary's key overflows the stack when it
is hashed. `find_class` sees none of that. So only the opcodes that Python's own pickler writes for plain data
(protocols 4 and 5) pass, with lengths within the data, and for hashable containers a bounded depth and size.
"""

from __future__ import annotations

import re
import struct
from typing import Any, List

#: Deepest nesting of tuples and frozensets; hashing recurses in C without a check.
MAX_DEPTH = 400
#: Most nodes of a hashable value counted as a tree: shared parts make it exponential in the pickle's length.
MAX_TREE = 1 << 26

_DEPTH_SHIFT = 40
_TREE_MASK = (1 << _DEPTH_SHIFT) - 1
_MARK = -1

# Kinds of opcodes. What isn't in the table is refused: GLOBAL, INST, OBJ, NEWOBJ, NEWOBJ_EX, BUILD, PERSID, BINPERSID,
# EXT1-4, PUT, BINPUT, LONG_BINPUT, GET, NEXT_BUFFER, READONLY_BUFFER and the text forms of protocol 0.
_REFUSED, _PUSH, _SIZED, _TUPLE, _EMPTY, _TO_MARK, _MEMO, _GET, _REDUCE, _OTHER = range(10)


def _table() -> tuple[List[int], List[int]]:
    kind = [_REFUSED] * 256
    width = [0] * 256
    # Scalars of a fixed width: N I00 I01 K M J G.
    for op, n in ((b"N", 0), (b"\x88", 0), (b"\x89", 0), (b"K", 1), (b"M", 2), (b"J", 4), (b"G", 8)):
        kind[op[0]], width[op[0]] = _PUSH, n
    # A length of so many bytes, then that many bytes: text, bytes, bytearray, long.
    for op, n in (
        (b"\x8c", 1), (b"X", 4), (b"\x8d", 8), (b"C", 1), (b"B", 4), (b"\x8e", 8), (b"\x96", 8),
        (b"\x8a", 1), (b"\x8b", 4),
    ):  # fmt: skip
        kind[op[0]], width[op[0]] = _SIZED, n
    for op, n in ((b"\x85", 1), (b"\x86", 2), (b"\x87", 3)):
        kind[op[0]], width[op[0]] = _TUPLE, n
    for op in (b")", b"]", b"}", b"\x8f"):
        kind[op[0]] = _EMPTY
    # TUPLE, APPENDS, SETITEMS, ADDITEMS, FROZENSET, POP_MARK.
    for op in (b"t", b"e", b"u", b"\x90", b"\x91", b"1"):
        kind[op[0]] = _TO_MARK
    kind[0x94] = _MEMO
    kind[ord("h")], width[ord("h")] = _GET, 1
    kind[ord("j")], width[ord("j")] = _GET, 4
    kind[ord("R")] = _REDUCE
    # MARK, APPEND, SETITEM, POP, STACK_GLOBAL, PROTO, FRAME, STOP.
    for op in (b"(", b"a", b"s", b"0", b"\x93", b"\x80", b"\x95", b"."):
        kind[op[0]] = _OTHER
    return kind, width


_KIND, _WIDTH = _table()
# Long lists of numbers are runs of one opcode; counting them here keeps a million floats at a few milliseconds.
_RUN = {
    ord("G"): (re.compile(rb"(?:G.{8}){16,}", re.S), 9),
    ord("K"): (re.compile(rb"(?:K.){16,}", re.S), 2),
    ord("M"): (re.compile(rb"(?:M..){16,}", re.S), 3),
    ord("J"): (re.compile(rb"(?:J.{4}){16,}", re.S), 5),
}
_u64 = struct.Struct("<Q").unpack_from


class Refused(ValueError):
    """The pickle holds an opcode or a number that plain data doesn't need."""


def scan(data: bytes) -> None:
    """Raises :class:`Refused` unless `data` is one whole pickle of harmless opcodes."""
    try:
        end = _scan(data)
    except (IndexError, struct.error):
        raise Refused("it is cut off, or uses its stack wrongly") from None
    if end != len(data):
        raise Refused("something follows its end")


def _scan(data: bytes) -> int:
    kind_of, width_of, runs = _KIND, _WIDTH, _RUN
    # For each value: its depth in the high bits, its tree size in the low ones, if hashable; else 0.
    stack: List[int] = []
    push, pop = stack.append, stack.pop
    memo: List[int] = []
    at, size = 0, len(data)
    while True:
        op = data[at]
        at += 1
        kind = kind_of[op]
        if kind == _PUSH:
            run = runs.get(op)
            if run is not None and at + 120 < size:
                found = run[0].match(data, at - 1)
                if found is not None:
                    stack.extend([0] * ((found.end() - at + 1) // run[1]))
                    at = found.end()
                    continue
            at += width_of[op]
            push(0)
        elif kind == _SIZED:
            width = width_of[op]
            if at + width > size:
                raise IndexError
            length = int.from_bytes(data[at : at + width], "little")
            at += width + length
            if at > size:
                raise Refused("a length in it points beyond its end")
            push(0)
        elif kind == _MEMO:
            if stack[-1] < 0:
                raise IndexError
            memo.append(stack[-1])
        elif kind == _GET:
            width = width_of[op]
            if at + width > size:
                raise IndexError
            push(memo[int.from_bytes(data[at : at + width], "little")])
            at += width
        elif kind == _TUPLE:
            n = width_of[op]
            push(_nested([_value(pop) for _ in range(n)]))
        elif kind == _EMPTY:
            push(0)
        elif kind == _TO_MARK:
            items = []
            while True:
                value = pop()
                if value == _MARK:
                    break
                items.append(value)
            if op in (0x74, 0x91):  # TUPLE, FROZENSET
                push(_nested(items))
            elif op != 0x31 and stack[-1] < 0:  # the others fill what lies below the mark
                raise IndexError
        elif kind == _REDUCE:
            args = _value(pop)
            _value(pop)
            # What comes of it may be hashed with its arguments (a slice is).
            push(_nested([args]))
        elif op == 0x28:  # MARK
            push(_MARK)
        elif op == 0x61:  # APPEND
            _value(pop)
            if stack[-1] < 0:
                raise IndexError
        elif op == 0x73:  # SETITEM
            _value(pop)
            _value(pop)
            if stack[-1] < 0:
                raise IndexError
        elif op == 0x30:  # POP
            pop()
        elif op == 0x93:  # STACK_GLOBAL
            _value(pop)
            _value(pop)
            push(0)
        elif op == 0x80:  # PROTO
            if data[at] not in (4, 5):
                raise Refused(f"its protocol is {data[at]}, not 4 or 5")
            at += 1
        elif op == 0x95:  # FRAME
            if _u64(data, at)[0] > size - at - 8:
                raise Refused("a length in it points beyond its end")
            at += 8
        elif op == 0x2E:  # STOP
            if len(stack) != 1 or stack[0] < 0:
                raise IndexError
            return at
        else:
            raise Refused(f"its opcode {op:#04x} at byte {at - 1} isn't one of plain data")


def _value(pop: Any) -> int:
    value: int = pop()
    if value < 0:
        raise IndexError
    return value


def _nested(items: List[int]) -> int:
    deepest, tree = 0, 1 + len(items)
    for item in items:
        if item < 0:
            raise IndexError
        if item:
            depth = item >> _DEPTH_SHIFT
            if depth > deepest:
                deepest = depth
            tree += item & _TREE_MASK
    if deepest >= MAX_DEPTH:
        raise Refused(f"its tuples are nested more than {MAX_DEPTH} deep")
    if tree > MAX_TREE:
        raise Refused("its tuples share parts so often that hashing them would not end")
    return (deepest + 1) << _DEPTH_SHIFT | tree
