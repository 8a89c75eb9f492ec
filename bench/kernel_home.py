"""A kernel of a benchmark's own, in a data directory of its own, of which nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from patience import until
from places import Places, environment
from sdk import Client


class KernelHome:
    """`with KernelHome(places) as home`: the kernel runs inside, and has ended behind."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.folder = Path(tempfile.mkdtemp(prefix="clove-bench-"))
        # Others' containers enter it under another uid.
        self.folder.chmod(0o755)
        self.home = self.folder / "h"
        self.env = environment(self.home, places.clove)
        self._socket = ""

    def __enter__(self) -> KernelHome:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            if self._socket:
                with contextlib.suppress(OSError):
                    Path(self._socket).parent.rmdir()
            if kind is not None and (self.home / "kernel.log").exists():
                log = (self.home / "kernel.log").read_text(errors="replace")[-2000:]
                print(f"bench: the kernel's log ends:\n{log}", file=sys.stderr)
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Starts the kernel, if it doesn't run."""
        self._socket = self.clove("kernel", "socket", "--start").strip()

    def stop(self) -> None:
        """Ends the kernel and whatever runs; returns when both its processes are gone."""
        if not self.home.exists():
            return
        done = self._run("kernel", "info", "--json")
        info = json.loads(done.stdout) if done.returncode == 0 else {}
        if "pid" not in info:
            return  # none runs
        pids = _pids(info)
        self._run("stop", "--force")
        until(lambda: not any(map(_alive, pids)), f"the end of the kernel ({pids})")

    @property
    def socket(self) -> str:
        return self._socket

    def client(self) -> Client:
        """A connection of the Python client."""
        return Client(self._socket, client="bench")

    def info(self) -> dict[str, Any]:
        """`kernel.info`."""
        with self.client() as client:
            return client.call("kernel.info", {})[0]

    def pids(self) -> list[int]:
        """Of the kernel and its launcher, from whom everything else descends."""
        return _pids(self.info())

    def clove(self, *args: str) -> str:
        """Runs `clove ARGS...`; its standard output."""
        done = self._run(*args)
        if done.returncode != 0:
            raise RuntimeError(f"clove {' '.join(args)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.places.clove, *args],
            env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    def rust(self, orders: dict[str, Any], prefix: Sequence[str] = ()) -> Any:
        """What the Rust client measured; `prefix` goes before its command line."""
        with self.rust_started(orders, prefix) as child:
            out, err = child.communicate()
        return rust_answer(child, out, err)

    def rust_started(self, orders: dict[str, Any], prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
        """The Rust client at work; give its end to :func:`rust_answer`."""
        command = [*prefix, str(self.places.rust_client), self.socket, json.dumps(orders)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def rust_answer(child: subprocess.Popen[str], out: str, err: str) -> Any:
    """The last line of what the Rust client said. Raises when it failed."""
    if child.returncode != 0:
        raise RuntimeError(err.strip() or f"the Rust client ended with {child.returncode}")
    return json.loads(out.splitlines()[-1])


def _pids(info: dict[str, Any]) -> list[int]:
    return [int(info["pid"]), int(info["launcher_pid"])]


def _alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")
