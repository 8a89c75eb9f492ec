"""Sizes as people write them: `512m`, `2g`, `1.5GiB`, or a number of bytes."""

from __future__ import annotations

import re
from typing import Union

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?\Z", re.I)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def to_bytes(name: str, size: Union[str, int, float]) -> int:
    """As bytes. Units are binary, as Docker's are."""
    if isinstance(size, bool) or not isinstance(size, (str, int, float)):
        raise TypeError(f"{name} = {size!r}: write bytes as a number, or text such as '512m'")
    if isinstance(size, str):
        match = _SIZE.match(size.strip())
        if match is None:
            raise ValueError(f"{name} = {size!r} isn't a size: write for example '512m' or '2g'")
        size = float(match.group(1)) * _UNITS[match.group(2).lower()]
    if not 0 < size < float(1 << 62):
        raise ValueError(f"{name} = {size!r} isn't a size: it has to be more than nothing")
    return int(size)
