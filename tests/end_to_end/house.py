"""A kernel of its own for one test, and the proof that nothing of it is left behind."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Set, Union

from deadline import PATIENCE, until

ROOT = Path(__file__).resolve().parents[2]


def binary() -> Path:
    """The program under test: `CLOVE_BIN`, else the release build, else the debug build."""
    named = os.environ.get("CLOVE_BIN")
    places = [Path(named)] if named else [ROOT / "target/release/clove", ROOT / "target/debug/clove"]
    for place in places:
        if place.is_file():
            return place.resolve()
    raise FileNotFoundError(f"no clove at {', '.join(map(str, places))}: cargo build -p clove -p clove-sys")


@dataclasses.dataclass(frozen=True)
class Ended:
    """What a command left: its status and its two streams."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        """One text for all three, for snapshots and for messages of failed tests."""
        return f"{self.out}--- stderr\n{self.err}--- exit {self.code}\n"

    @property
    def last_words(self) -> str:
        """The last line of standard error."""
        lines = self.err.strip().splitlines()
        return lines[-1] if lines else ""

    def json(self) -> Any:
        """Standard output, read as JSON."""
        return json.loads(self.out)

    def ok(self) -> Ended:
        """Itself, when the command succeeded."""
        assert self.code == 0, f"\n{self}"
        return self


class House:
    """A data directory, a folder to work in, and every command run on the kernel of that directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Apart from each other: a mount that holds a data directory is refused.
        self.home = folder / "h"
        self.work = folder / "w"
        self.work.mkdir()
        self.clove_bin = str(binary())
        self._started: List[subprocess.Popen[str]] = []
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("CLOVE_", "PYTHON", "PYTEST", "XDG_"))}
        for name in ("NO_COLOR", "COLUMNS", "VIRTUAL_ENV", "FORCE_COLOR", "CLICOLOR_FORCE"):
            self.env.pop(name, None)
        self.env.update(
            CLOVE_HOME=str(self.home),
            TERM="dumb",
            LC_ALL="C.UTF-8",
            # `python3` is the interpreter of these tests, so that numpy is there.
            PATH=f"{Path(sys.executable).parent}:{self.env['PATH']}",
        )

    # What is run

    def start(self, *args: str, env: Optional[Dict[str, str]] = None, **more: Any) -> subprocess.Popen[str]:
        """Starts `clove ARGS...`; its streams are pipes unless told otherwise."""
        return self.start_any([self.clove_bin, *args], env=env, **more)

    def start_any(
        self, argv: Sequence[str], env: Optional[Dict[str, str]] = None, **more: Any
    ) -> subprocess.Popen[str]:
        """Starts any program in this house's surroundings."""
        more = {
            "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": self.work,
            "text": True, "errors": "surrogateescape", **more,
        }  # fmt: skip
        child = subprocess.Popen(argv, env={**self.env, **(env or {})}, **more)
        self._started.append(child)
        return child

    def clove(self, *args: str, stdin: Optional[str] = None, patience: float = PATIENCE, **more: Any) -> Ended:
        """Runs `clove ARGS...` to its end."""
        return self.any([self.clove_bin, *args], stdin=stdin, patience=patience, **more)

    def any(self, argv: Sequence[str], stdin: Optional[str] = None, patience: float = PATIENCE, **more: Any) -> Ended:
        """Runs any program to its end."""
        if stdin is not None:
            more["stdin"] = subprocess.PIPE
        child = self.start_any(argv, **more)
        return finish(child, stdin, patience)

    def shell(self, script: str, patience: float = PATIENCE, **more: Any) -> Ended:
        """Runs a shell script in which `$CLOVE` is the program under test."""
        return self.any(["sh", "-c", script], env={"CLOVE": self.clove_bin}, patience=patience, **more)

    def json(self, *args: str) -> Any:
        """What `clove ARGS... --json` prints."""
        ended = self.clove(*args, "--json")
        assert ended.out, f"clove {' '.join(args)} --json printed nothing\n{ended}"
        return ended.json()

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """A file in the working folder; the text's common indentation is taken away."""
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
        path.chmod(mode)
        return path

    def results(self, run: str = "last") -> Dict[int, Dict[str, Any]]:
        """The ended tasks of a sweep, by number."""
        return {t["index"]: t for t in self.json("sweep", "results", run)}

    def shown(self, run: str = "last") -> Dict[str, Any]:
        """What `clove sweep show` tells."""
        return self.json("sweep", "show", run)

    def watch_done(self, run: str, done: Set[int]) -> threading.Thread:
        """Notes which tasks `sweep watch` shows as done, until the kernel is gone or the sweep has ended."""
        child = self.start("sweep", "watch", run, stderr=subprocess.DEVNULL)

        def read() -> None:
            assert child.stdout
            for line in child.stdout:
                try:
                    change = json.loads(line)
                except ValueError:
                    return
                if change["kind"] == "task" and change["task"]["state"] == "done":
                    done.add(change["task"]["index"])

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def terminal(self, *args: str, env: Optional[Dict[str, str]] = None) -> Terminal:
        """`clove ARGS...` on a terminal of its own, as its session's leader."""
        return Terminal(self, [self.clove_bin, *args], env)

    def agent(self, name: str) -> Dict[str, Any]:
        """What `clove ps -a` tells of one agent; empty when it isn't there."""
        return next((a for a in self.json("ps", "-a") if name in (a["name"], a["id"])), {})

    def running(self, name: str) -> Dict[str, Any]:
        """An agent, once its program runs."""
        return until(
            lambda: (a := self.agent(name)).get("state") == "running" and a.get("pid") and a, f"{name} running"
        )

    # The kernel

    @property
    def data_dir(self) -> Path:
        return self.home.resolve()

    def kernel_pids(self) -> List[int]:
        """Kernels and launchers of this data directory, by their environment."""
        mark = b"CLOVE_HOME=" + os.fsencode(self.home)
        return [
            p for p in _all_pids()
            if _read(f"/proc/{p}/cmdline").startswith(b"clove") and mark in _read(f"/proc/{p}/environ").split(b"\0")
            and p not in [c.pid for c in self._started]
        ]  # fmt: skip

    def agent_pids(self) -> List[int]:
        """Processes in this data directory's cgroups."""
        mark = f"/{self.cgroup_name}/".encode()
        return [p for p in _all_pids() if any(mark in line + b"/" for line in _read(f"/proc/{p}/cgroup").splitlines())]

    def processes(self) -> Dict[int, str]:
        """All that is left of the kernel, with command lines."""
        pids = set(self.kernel_pids()) | set(self.agent_pids())
        return {p: _read(f"/proc/{p}/cmdline").replace(b"\0", b" ").decode(errors="replace") for p in pids}

    def kill_everything(self) -> None:
        """`kill -9` of kernel, launcher and all agents at once, as a power cut would do."""
        until(self._kill_round, "the death of everything")

    def kill_kernel(self) -> None:
        """`kill -9` of the kernel alone."""
        pid = self.json("kernel", "info")["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), "the kernel's death")

    def _kill_round(self) -> bool:
        pids = self.processes()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return not pids

    # What it leaves behind

    @property
    def cgroup_name(self) -> str:
        """The folder of this data directory's groups, as the kernel names it (FNV-1a of the path, folded)."""
        h = 0xCBF2_9CE4_8422_2325
        for byte in os.fsencode(self.data_dir):
            h = ((h ^ byte) * 0x0000_0100_0000_01B3) & 0xFFFF_FFFF_FFFF_FFFF
        return f"clove-{(h >> 32) ^ (h & 0xFFFF_FFFF):08x}"

    def cgroup_folders(self) -> List[str]:
        """Those of this data directory, in every hierarchy, wherever they were put."""
        found = []
        for top, folders, _ in os.walk("/sys/fs/cgroup", onerror=lambda e: None):
            if self.cgroup_name in folders:
                found.append(os.path.join(top, self.cgroup_name))
        return found

    def mounts(self) -> List[str]:
        """Mounts of this process's namespace that have to do with this house."""
        marks = (str(self.folder), self.cgroup_name)
        return [m for m in Path("/proc/self/mountinfo").read_text().splitlines() if any(k in m for k in marks)]

    def check(self) -> None:
        """Applied outcomes, re-run inputs and the live state are the same."""
        ended = self.clove("kernel", "check")
        assert ended.code == 0 and ended.out.endswith("\nequal\n"), f"kernel check:\n{ended}\n{self.kernel_log()}"

    def kernel_log(self) -> str:
        """The last of what the kernel said about itself."""
        path = self.home / "kernel.log"
        return "kernel.log:\n" + path.read_text(errors="replace")[-4000:] if path.exists() else "no kernel.log"

    def end_children(self, but: Optional[subprocess.Popen[str]] = None) -> None:
        """Ends the commands that the test started."""
        for child in self._started:
            if child is not but and child.poll() is None:
                child.kill()
                child.wait()

    def close(self) -> None:
        """Ends all that the test started."""
        self.end_children()
        for child in self._started:
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    stream.close()

    def prove_empty(self) -> None:
        """No process, no cgroup and no mount is left."""
        if self.cgroup_folders() and not self.processes():
            # Everything was killed at once: the next kernel sweeps up, whatever it is started for.
            self.clove("kernel", "socket", "--start").ok()
            self.clove("stop", "--force").ok()
        until(lambda: not self.processes(), f"the end of {self.processes()}; {self.kernel_log()}", 20)
        until(lambda: not self.cgroup_folders(), f"the removal of {self.cgroup_folders()}", 20)
        assert self.mounts() == []


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, house: House, argv: Sequence[str], env: Optional[Dict[str, str]]) -> None:
        self.master, slave = pty.openpty()
        try:
            self.child = house.start_any(
                argv, {"TERM": "xterm", "COLUMNS": "100", "LINES": "30", **(env or {})},
                stdin=slave, stdout=slave, stderr=slave, start_new_session=True, text=False, errors=None,
                preexec_fn=_take_terminal,
            )  # fmt: skip
        finally:
            os.close(slave)
        os.set_blocking(self.master, False)
        self.seen = b""

    def type(self, text: Union[str, bytes]) -> None:
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def read(self) -> bytes:
        """Takes in what has come; all of it so far is the answer."""
        while True:
            try:
                piece = os.read(self.master, 65536)
            except (BlockingIOError, OSError):
                return self.seen
            if not piece:
                return self.seen
            self.seen += piece

    def expect(self, text: str, patience: float = PATIENCE) -> bytes:
        """Waits until the text has been shown."""
        return until(
            lambda: text.encode() in self.read() and self.seen, f"{text!r} on the terminal ({self.seen!r})", patience
        )

    def hang_up(self) -> None:
        """The terminal is closed: the kernel sends SIGHUP to its session."""
        os.close(self.master)
        self.master = -1

    def wait(self) -> int:
        def ended() -> bool:
            if self.master >= 0:
                self.read()
            return self.child.poll() is not None

        until(ended, f"the end of {self.child.args}; shown: {self.seen!r}")
        if self.master >= 0:
            self.read()
        return self.child.returncode


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def finish(child: subprocess.Popen[str], stdin: Optional[str] = None, patience: float = PATIENCE) -> Ended:
    """Waits for a command's end, and for the end of its streams: nobody else may hold them open."""
    try:
        out, err = child.communicate(stdin, timeout=patience)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate(timeout=10)
        raise AssertionError(f"{child.args} didn't end within {patience:.0f} s\n{out}--- stderr\n{err}") from None
    return Ended(child.returncode, out or "", err or "")


def alive(pid: int) -> bool:
    """The process runs, or could; a zombie doesn't."""
    stat = _read(f"/proc/{pid}/stat")
    return bool(stat) and stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def _all_pids() -> List[int]:
    return [int(p) for p in os.listdir("/proc") if p.isdigit() and alive(int(p))]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""


def new_folder(number: int) -> Path:
    """A short one: sockets' paths are."""
    folder = Path(f"/tmp/ce-{os.getpid()}-{number}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    return folder
