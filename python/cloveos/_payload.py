"""A pickled call on its way from an Executor to an agent. Agents believe it: it comes from their own operator.

Outside is a plain tuple, so that the agent can load the caller's main script and run its initializer before it
unpickles what may refer to them.
"""

from __future__ import annotations

import pickle
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple


class Payload(NamedTuple):
    """One call."""

    #: The caller's main script or module (see `_main_module`), or None when nothing refers to it.
    main: Optional[str]
    #: The caller takes any result.
    trusted: bool
    #: A name for the initializer and its pickled (function, arguments); runs once in a process.
    initializer: Optional[Tuple[str, bytes]]
    #: Pickled (function, args, kwargs).
    call: bytes


def pack(payload: Payload) -> bytes:
    """As bytes."""
    return pickle.dumps(tuple(payload), 5)


def unpack(data: bytes) -> Payload:
    """From bytes."""
    return Payload(*pickle.loads(data))


def run_chunk(fn: Callable[..., Any], chunk: Iterable[Tuple[Any, ...]]) -> List[Any]:
    """What a task of `Executor.map` with a chunk size runs."""
    return [fn(*args) for args in chunk]


def load_call(data: bytes) -> Tuple[Callable[..., Any], Tuple[Any, ...], Dict[str, Any]]:
    """The pickled function and its arguments."""
    fn, args, kwargs = pickle.loads(data)
    return fn, args, kwargs
