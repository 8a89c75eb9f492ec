"""The death certificate: what the kernel knows about the end of an agent."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Mapping, Optional

__all__ = ["Certificate", "KilledBy", "Usage"]


@dataclasses.dataclass(frozen=True)
class Usage:
    """Use of resources, measured from the agent's cgroups at its end."""

    cpu_user_us: int = 0
    cpu_system_us: int = 0
    peak_memory_bytes: int = 0
    tmpfs_bytes: int = 0
    oom_kills: int = 0
    pids_refused: int = 0
    throttled_periods: int = 0
    disk_full: bool = False


@dataclasses.dataclass(frozen=True)
class KilledBy:
    """Who asked for a kill: `operator`, `agent`, `kernel` or `outside`."""

    kind: str = ""
    uid: Optional[int] = None
    pid: Optional[int] = None
    command: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class Certificate:
    """How one attempt of one agent ended."""

    agent: str = ""
    name: str = ""
    run: Optional[str] = None
    task: Optional[int] = None
    #: From 1.
    attempt: int = 0
    #: exit, exception, signal, oom, timeout, pids, disk, killed, cancelled, policy, spawn or lost.
    cause: str = ""
    exit_code: Optional[int] = None
    #: Signal number, when one ended it.
    signal: Optional[int] = None
    killed_by: Optional[KilledBy] = None
    #: One sentence: what happened.
    message: str = ""
    #: One sentence: what to try next; may be empty.
    suggestion: str = ""
    usage: Usage = dataclasses.field(default_factory=Usage)
    #: The limits that were enforced, as the kernel names them (`memory_bytes`, `cpu_milli`, ...).
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    #: Milliseconds since the Unix epoch.
    started_ms: int = 0
    ended_ms: int = 0
    #: The last lines of its output.
    tail: str = ""
    output_dropped_bytes: int = 0
    missing_walls: List[str] = dataclasses.field(default_factory=list)
    missing_limits: List[str] = dataclasses.field(default_factory=list)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Certificate:
        """From the wire; fields that a newer kernel adds are ignored."""
        known = _known(cls, d)
        known["usage"] = Usage(**_known(Usage, d.get("usage") or {}))
        killed_by = d.get("killed_by")
        known["killed_by"] = KilledBy(**_known(KilledBy, killed_by)) if killed_by else None
        return cls(**known)

    def to_dict(self) -> Dict[str, Any]:
        """As plain data, with the names of the wire."""
        return dataclasses.asdict(self)

    @property
    def wall_seconds(self) -> float:
        """Wall time of the attempt."""
        return max(0, self.ended_ms - self.started_ms) / 1000


def _known(cls: Any, d: Mapping[str, Any]) -> Dict[str, Any]:
    names = {f.name for f in dataclasses.fields(cls)}
    return {k: v for k, v in d.items() if k in names}
