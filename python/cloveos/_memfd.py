"""Sealed memory files: how large bytes are handed over without a copy through the socket (memfd_create(2))."""

from __future__ import annotations

import fcntl
import os
from typing import Any

# fcntl(2); Python names them only from 3.8 on and only where its headers did.
F_ADD_SEALS = 1033
F_GET_SEALS = 1034
#: F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE: the kernel takes nothing less.
ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8


def sealed(data: Any, name: str = "cloveos") -> int:
    """A descriptor of a memory file that holds `data` and can't be changed any more. The caller closes it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data).cast("B")
        while len(view):
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, F_ADD_SEALS, ALL_SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd
