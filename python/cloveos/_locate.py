"""Finds the `clove` program and, through it, the socket of a running kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import List, Tuple

from .errors import KernelNotFound

#: Where an agent's own socket lies, in its own root.
INSIDE = "/run/clove/kernel.sock"
#: Starting takes tens of milliseconds; this bound is for a machine that is very busy, or recovering a long journal.
START_TIMEOUT_S = 120


def program() -> str:
    """The path of `clove`: `CLOVE_BIN`, this package's own, then `PATH`."""
    named = os.environ.get("CLOVE_BIN")
    own = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "clove")
    if named:
        if os.access(named, os.X_OK) and os.path.isfile(named):
            return os.path.abspath(named)
        raise KernelNotFound(f"CLOVE_BIN names {named!r}, which isn't an executable file")
    if os.access(own, os.X_OK):
        return own
    found = shutil.which("clove")
    if found:
        return os.path.abspath(found)
    raise KernelNotFound(
        f"the clove program isn't there: looked at CLOVE_BIN (not set), {own}, and PATH. "
        "Build it (`cargo build --release`) and set CLOVE_BIN to target/release/clove"
    )


def socket_path() -> str:
    """The kernel's socket: `CLOVE_SOCKET` (an agent has it), else what `clove kernel socket --start` prints."""
    given = os.environ.get("CLOVE_SOCKET")
    if given:
        return given
    if "CLOVE_AGENT" in os.environ and os.path.exists(INSIDE):
        return INSIDE
    command = [program(), "kernel", "socket", "--start"]
    code, out, err = _run(command)
    path = out.strip()
    if code != 0 or not path.startswith("/"):
        said = err.strip() or out.strip() or "it said nothing"
        raise KernelNotFound(f"`{' '.join(command)}` failed with code {code}: {said}")
    return path


def _run(command: List[str]) -> Tuple[int, str, str]:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise KernelNotFound(
            f"`{' '.join(command)}` didn't finish in {START_TIMEOUT_S} s; see kernel.log in CloveOS's data directory"
        ) from None
    except OSError as e:
        raise KernelNotFound(f"`{command[0]}` can't be run: {e}") from None
    return (
        done.returncode,
        done.stdout.decode("utf-8", "surrogateescape"),
        done.stderr.decode("utf-8", "replace"),
    )
