"""A mount namespace of its own for a test: what it mounts is seen by nobody else, and gone with it."""

from __future__ import annotations

import json
import shlex
import subprocess
from types import TracebackType
from typing import Any, Optional, Type

from deadline import PATIENCE, until
from house import Ended, House


class PrivateMounts:
    """Runs commands in a mount namespace in which `script` has been carried out."""

    def __init__(self, house: House, script: str) -> None:
        self.house = house
        command = f"set -e\n{script}\necho stands\nexec cat"
        self.holder = house.start_any(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", command], stdin=subprocess.PIPE
        )
        assert self.holder.stdout is not None
        said = self.holder.stdout.readline()
        if said != "stands\n":
            raise AssertionError(f"the mounts can't be made: {self.holder.communicate()}")

    def any(self, *argv: str, patience: float = PATIENCE, **more: Any) -> Ended:
        return self.house.any([*self._enter(), *argv], patience=patience, **more)

    def clove(self, *args: str, patience: float = PATIENCE, **more: Any) -> Ended:
        """`clove ARGS...` in there."""
        return self.any(self.house.clove_bin, *args, patience=patience, **more)

    def start(self, *args: str, **more: Any) -> subprocess.Popen[str]:
        return self.house.start_any([*self._enter(), self.house.clove_bin, *args], **more)

    def shown(self) -> dict[str, Any]:
        """What `clove sweep show` tells of the last sweep; empty as long as there is none."""
        ended = self.clove("sweep", "show", "--json")
        return json.loads(ended.out) if ended.code == 0 else {}

    def sh(self, script: str) -> Ended:
        return self.any("sh", "-c", script).ok()

    def _enter(self) -> list[str]:
        inside = f'cd {shlex.quote(str(self.house.work))} && exec "$@"'
        return ["nsenter", f"--target={self.holder.pid}", "--mount", "sh", "-c", inside, "sh"]

    def __enter__(self) -> PrivateMounts:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        # A command that still waits would start the kernel again.
        self.house.end_children(but=self.holder)
        self.clove("stop", "--force")
        until(lambda: not self.house.processes(), f"the end of {self.house.processes()}", 20)
        assert self.holder.stdin is not None
        self.holder.stdin.close()
        self.holder.wait(20)


def small_home(house: House, mebibytes: int) -> PrivateMounts:
    """The data directory on a disk of its own, a tmpfs of this size."""
    house.home.mkdir()
    return PrivateMounts(house, f"mount -t tmpfs -o size={mebibytes}m,mode=700 none {house.home}")
