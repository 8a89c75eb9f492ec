"""An exception in words: its class, its message, and the part of its traceback that is the user's own."""

from __future__ import annotations

import importlib
import os
import traceback
from typing import Dict, Optional, Set

#: Longest class, message and traceback that are kept, in characters.
CLASS_CHARS = 1 << 10
MESSAGE_CHARS = 16 << 10
TRACEBACK_CHARS = 64 << 10

_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
# Ours, but run on behalf of the user: a script is loaded and a task called by these.
_DEMO = os.path.join(_OWN, "demo") + os.sep
_ALIASES = ("__clove_main__.", "__mp_main__.", "__main__.", "builtins.")


def exception_text(error: BaseException) -> Dict[str, str]:
    """As the `ExceptionText` of the wire. Works also when there is hardly any memory left."""
    try:
        return {
            "class": clean(class_name(type(error)), CLASS_CHARS),
            "message": clean(_message(error), MESSAGE_CHARS),
            "traceback": clean(user_traceback(error), TRACEBACK_CHARS),
        }
    except Exception:
        return {"class": clean(type(error).__name__, CLASS_CHARS), "message": "", "traceback": ""}


def class_name(kind: type) -> str:
    """Qualified, without the names that we gave the script's module."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    for alias in _ALIASES:
        if name.startswith(alias):
            return name[len(alias) :]
    return name


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as e:
        return f"(its __str__ raised {type(e).__name__})"


def user_traceback(error: BaseException) -> str:
    """The traceback without importlib's frames and ours."""
    told = traceback.TracebackException(type(error), error, error.__traceback__)
    _strip(told, set())
    return "".join(told.format())


def _strip(told: Optional[traceback.TracebackException], seen: Set[int]) -> None:
    if told is None or id(told) in seen:
        return
    seen.add(id(told))
    told.stack[:] = [f for f in told.stack if not _is_ours(f.filename)]
    _strip(told.__cause__, seen)
    _strip(told.__context__, seen)
    for inner in getattr(told, "exceptions", None) or ():
        _strip(inner, seen)


def _is_ours(filename: str) -> bool:
    if filename.startswith("<frozen "):
        return "importlib" in filename or "runpy" in filename
    if filename == importlib.__file__:
        return True
    return filename.startswith(_OWN) and not filename.startswith(_DEMO)


def clean(text: str, limit: int) -> str:
    """Text that JSON can hold, cut in the middle when it is too long."""
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
