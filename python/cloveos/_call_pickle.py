"""Pickles a call for an agent: by name where the agent can import it, by value with cloudpickle where it can't."""

from __future__ import annotations

import pickle
from typing import Any, Tuple

from ._environment import MainModule

_INSTALL = "`pip install cloudpickle` lets it travel by value"


def dumps(fn: Any, args: Tuple[Any, ...], kwargs: Any, main: MainModule) -> bytes:
    """Pickled (fn, args, kwargs). Raises `pickle.PicklingError` saying what to do."""
    call = (fn, args, kwargs)
    if not main.defines_in_guard(fn):
        try:
            data = pickle.dumps(call, 5)
        except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as e:
            return _by_value(call, f"{_name(fn)} or its arguments can't be pickled: {e}", e)
        if main.load is not None or not _refers_to_main(data):
            return data
        return _by_value(call, f"{_name(fn)} or its arguments belong to `__main__`, and {main.reason}", None)
    return _by_value(call, f'{_name(fn)} is defined under `if __name__ == "__main__":`, which only you run', None)


def _by_value(call: Any, why: str, cause: Any) -> bytes:
    try:
        import cloudpickle
    except ImportError:
        raise pickle.PicklingError(f"{why}. Define it at the top level of a module, or {_INSTALL}") from cause
    try:
        return bytes(cloudpickle.dumps(call, 5))
    except Exception as e:
        raise pickle.PicklingError(f"{why}; nor by cloudpickle: {type(e).__name__}: {e}") from e


def _refers_to_main(data: bytes) -> bool:
    # As pickle writes a module's name: a short text of 8 characters. A call whose data merely holds these bytes goes
    # by value too, which is right but slower.
    return b"\x8c\x08__main__" in data


def _name(fn: Any) -> str:
    return str(getattr(fn, "__qualname__", None) or repr(fn))[:100]
