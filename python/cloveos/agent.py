"""What a task may ask about itself: where to keep files, and which attempt it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional

__all__ = ["agent_id", "attempt", "checkpoint_dir", "inside", "out_dir", "run_id", "shared", "task_index"]

_shared: Any = None
#: Set while a template is built: a script that starts work when it is imported would start it in there again.
_building_template = False


def inside() -> bool:
    """Whether this process is an agent of CloveOS."""
    return "CLOVE_AGENT" in os.environ


def out_dir() -> Path:
    """The folder (`$CLOVE_OUT`) whose files are kept, one for each attempt."""
    return _folder("CLOVE_OUT")


def checkpoint_dir() -> Path:
    """The folder (`$CLOVE_CHECKPOINT`) whose files are there again when this task is retried."""
    return _folder("CLOVE_CHECKPOINT")


def attempt() -> int:
    """From 1; more when this task is retried."""
    return int(os.environ.get("CLOVE_ATTEMPT", "1"))


def run_id() -> Optional[str]:
    """For example `r12`."""
    return os.environ.get("CLOVE_RUN")


def task_index() -> Optional[int]:
    """Position of this task in its run, from 0."""
    text = os.environ.get("CLOVE_TASK")
    return int(text) if text else None


def agent_id() -> Optional[str]:
    """For example `a7.2`."""
    return os.environ.get("CLOVE_AGENT_ID")


def shared() -> Any:
    """What `setup` returned in the template that this process was forked from."""
    return _shared


def _folder(name: str) -> Path:
    path = os.environ.get(name)
    if not path:
        raise RuntimeError(f"${name} isn't set: this process isn't a task of CloveOS")
    return Path(path)
