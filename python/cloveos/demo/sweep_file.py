"""Writes the demo's experiments as a sweep file, the one that `clove sweep run` takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def text(value: object) -> str:
    """A value in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {text(one)}" for key, one in value.items()) + "}"
    # A JSON string is a TOML basic string, if it holds no escaped surrogates and no bare DEL.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def sweep(
    script: Path,
    python: Path,
    configs: Sequence[Mapping[str, Any]],
    jobs: int,
    seed: int,
    memory_bytes: int,
    environment: Mapping[str, str],
    mounts: Sequence[Path],
) -> str:
    """The whole file; each of `mounts` is shown to the agents, read-only, where it is."""
    lines = [
        'name = "drug-discovery"',
        'task_name = "{target}-{model}"',
        f"script = {text(script)}",
        f"python = {text(python)}",
        f"jobs = {jobs}",
        f"seed = {seed}",
        "list = [",
        *(f"  {text(config)}," for config in configs),
        "]",
        "",
        "[limits]",
        f'memory = "{memory_bytes}b"',
        'timeout = "10m"',
        "",
        "[retry]",
        "deaths = 2",
        'backoff = "200ms"',
        "",
        "[env]",
        *(f"{key} = {text(value)}" for key, value in environment.items()),
    ]
    for path in mounts:
        lines += ["", "[[mounts]]", f"source = {text(path)}", f"target = {text(path)}"]
    return "\n".join(lines) + "\n"
