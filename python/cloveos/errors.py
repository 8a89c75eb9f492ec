"""What this library raises: every class derives from :class:`CloveError`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from .certificate import Certificate

__all__ = [
    "AgentDied",
    "CloveError",
    "ConnectionLost",
    "KernelNotFound",
    "RemoteError",
    "RemoteTraceback",
    "SysError",
    "UntrustedResult",
]

# As `is_hidden` of the kernel's side (clove-abi/src/untrusted.rs), which says whence; line ends and tabs stay. A lone
# surrogate can't be printed at all.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def printable(text: str) -> str:
    """`text` with everything escaped that drives a terminal, turns the direction of writing, or can't be seen."""
    return _HIDDEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")


class CloveError(RuntimeError):
    """The base of everything that this library raises.

    What is wrong may be told in an agent's words, so `str()` is always printable; the attributes are as they came.
    """

    def __str__(self) -> str:
        return printable(self._words())

    def _words(self) -> str:
        return super().__str__()


class SysError(CloveError):
    """A syscall failed; `code` is stable, and `clove explain CODE` has a page about it."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(code, message, hint)
        self.code = code
        self.message = message
        self.hint = hint

    def _words(self) -> str:
        return f"{self.code}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class ConnectionLost(CloveError, ConnectionError):
    """The kernel closed the connection, or died; or this client was closed."""


class KernelNotFound(CloveError):
    """The `clove` program isn't there, or it couldn't start its kernel."""


class UntrustedResult(CloveError):
    """A result holds something that isn't loaded from an agent, which may be hostile."""


class RemoteTraceback(Exception):
    """Carries the traceback of the task's own process, as the cause of the exception that is raised here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return printable(self.text)


class RemoteError(CloveError):
    """A task raised an exception of a class that isn't built here from what an agent sends."""

    def __init__(self, class_name: str, message: str, traceback: str = "") -> None:
        super().__init__(class_name, message, traceback)
        self.class_name = class_name
        self.message = message
        self.traceback = traceback

    def _words(self) -> str:
        return f"{self.class_name}: {self.message}" if self.message else self.class_name


class AgentDied(CloveError):
    """The process of a task ended before the task did; `certificate` says how."""

    def __init__(self, message: str, certificate: Optional[Certificate] = None) -> None:
        super().__init__(message)
        self.message = message
        self.certificate = certificate

    def __reduce__(self) -> Any:
        return type(self), (self.message, self.certificate)

    @classmethod
    def of(cls, certificate: Certificate) -> AgentDied:
        """From a certificate: what happened, what to try next, and the last line that the process wrote."""
        message = f"{certificate.cause}: {printable(certificate.message)}"
        if certificate.suggestion:
            message += f" ({printable(certificate.suggestion)})"
        last = _last_words(certificate.tail)
        if last:
            message += f"; {last}"
        return cls(message, certificate)


def _last_words(tail: str) -> str:
    """What an agent's last output says about its end: where Python was when it crashed, else the last line."""
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    for i, line in enumerate(lines):
        # As faulthandler writes it: the error, then for each thread its frames, the innermost first.
        if line.startswith("Fatal Python error:"):
            frames = (later for later in lines[i + 1 :] if later.startswith("File "))
            return "in " + printable(next(frames, line)[:300])
    return "its last line: " + printable(lines[-1][:300]) if lines else ""
