"""CloveOS for Python: run functions in isolated processes with real limits.

from cloveos import Executor

with Executor(memory="512m", timeout=60) as executor:
    print(list(executor.map(train, configurations)))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from ._client import Client
    from .agent import attempt, checkpoint_dir, out_dir, shared
    from .certificate import Certificate
    from .errors import AgentDied, CloveError, ConnectionLost, KernelNotFound, RemoteError, SysError, UntrustedResult
    from .executor import Executor

__all__ = [
    "AgentDied",
    "Certificate",
    "Client",
    "CloveError",
    "ConnectionLost",
    "Executor",
    "KernelNotFound",
    "RemoteError",
    "SysError",
    "UntrustedResult",
    "__version__",
    "attempt",
    "checkpoint_dir",
    "out_dir",
    "shared",
]

# Loaded on first use: a template imports this package too, and must stay small.
_WHERE = {
    "AgentDied": "errors",
    "Certificate": "certificate",
    "Client": "_client",
    "CloveError": "errors",
    "ConnectionLost": "errors",
    "Executor": "executor",
    "KernelNotFound": "errors",
    "RemoteError": "errors",
    "SysError": "errors",
    "UntrustedResult": "errors",
    "attempt": "agent",
    "checkpoint_dir": "agent",
    "out_dir": "agent",
    "shared": "agent",
}


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
