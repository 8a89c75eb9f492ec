"""Large bytes by their digest: stored through a sealed memory file, read in pages."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, Tuple

from ._memfd import sealed

#: More than this goes as a memory file; the kernel then reads it on a driver, not on its loop.
MEMFD_BYTES = 1 << 20
#: One page of a read.
PAGE_BYTES = 16 << 20

#: `Client.call`, or anything with its shape.
Call = Callable[..., Tuple[Dict[str, Any], bytes]]


def put(call: Call, data: Any) -> str:
    """Stores bytes and returns their digest."""
    if len(data) <= MEMFD_BYTES:
        return str(call("blob.put", {}, data)[0]["digest"])
    fd = sealed(data)
    try:
        return str(call("blob.put", {}, b"", (fd,))[0]["digest"])
    finally:
        os.close(fd)


def get(call: Call, digest: str) -> bytes:
    """Reads a whole blob."""
    reply, page = call("blob.get", {"digest": digest, "max": PAGE_BYTES})
    total = int(reply["bytes"])
    if len(page) == total:
        return page
    out = bytearray(page)
    while len(out) < total:
        _, page = call("blob.get", {"digest": digest, "offset": len(out), "max": PAGE_BYTES})
        if not page:
            raise OSError(f"blob {digest} ended after {len(out)} of {total} bytes")
        out += page
    return bytes(out)
