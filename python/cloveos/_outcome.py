"""Turns what the kernel says of an ended task into a result or the exception to raise."""

from __future__ import annotations

import os
import pickle
from typing import Any, Mapping, Optional, Sequence

from . import _results
from .certificate import Certificate
from .errors import AgentDied, RemoteError, RemoteTraceback, UntrustedResult, printable

_EROFS = 30


class Outcome:
    """How one task ended: `error` if it is to be raised, else `value`."""

    __slots__ = ("cancelled", "error", "value")

    def __init__(self, value: Any = None, error: Optional[BaseException] = None, cancelled: bool = False) -> None:
        self.value = value
        self.error = error
        self.cancelled = cancelled


def outcome_of(info: Mapping[str, Any], opaque: bytes, trusted: bool) -> Outcome:
    """From a `TaskInfo` and its opaque result."""
    if info.get("state") == "done":
        try:
            return Outcome(_load(opaque, trusted))
        except UntrustedResult as e:
            return Outcome(error=e)
        except Exception as e:
            return Outcome(error=RemoteError(type(e).__name__, f"the result can't be unpickled here: {e}"))
    text = info.get("exception")
    if text:
        return Outcome(error=_raised(text, opaque, trusted))
    certificates: Sequence[Mapping[str, Any]] = info.get("certificates") or ()
    if certificates:
        return Outcome(error=AgentDied.of(Certificate.from_dict(certificates[-1])))
    if info.get("state") == "cancelled":
        return Outcome(cancelled=True)
    return Outcome(error=AgentDied(f"the task ended as {info.get('state')}, and there is no certificate"))


def _load(opaque: bytes, trusted: bool) -> Any:
    if not opaque:
        return None
    return pickle.loads(opaque) if trusted else _results.loads(opaque)


def _raised(text: Mapping[str, str], opaque: bytes, trusted: bool) -> BaseException:
    class_name, message = str(text.get("class")), str(text.get("message"))
    traceback = printable(str(text.get("traceback")))
    error: Optional[BaseException] = None
    if opaque:
        try:
            loaded = _load(opaque, trusted)
        except Exception:
            loaded = None  # its words remain
        if isinstance(loaded, Exception):
            error = loaded
    if error is None:
        error = RemoteError(printable(class_name), printable(message), traceback)
    note = _note(error)
    shown = f'\n"""\n{traceback}"""'
    if note:
        shown += f"\nclove: {note}"
        if hasattr(error, "add_note"):
            error.add_note(f"clove: {note}")
    error.__cause__ = RemoteTraceback(shown)
    return error


def _note(error: BaseException) -> str:
    """What helps when a file is there for the caller and not for the task."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return ""
    path = os.path.abspath(error.filename)
    if isinstance(error, FileNotFoundError) and os.path.exists(path):
        return (
            f"{printable(path)} exists on this machine, but a task sees only what it is given: "
            f"pass mounts=[{printable(path + ':' + path)!r}] to the Executor"
        )
    if error.errno == _EROFS:
        return "a task sees your folders read-only: write to cloveos.out_dir(), or add a mount that ends in :rw"
    return ""
