"""All that the demo knows about the `clove` command: which commands it gives, which JSON it reads back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .untrusted import for_terminal

# States after which a task doesn't change any more.
FINAL_STATES = ("done", "failed", "quarantined", "cancelled")
# States that a task gets into when its last attempt has died or raised.
FAILED_STATES = ("backoff", "failed", "quarantined")

# Every command but `sweep watch` answers at once.
ANSWER_S = 60.0


class CliFailed(Exception):
    """A `clove` command failed or said something unexpected; the message names it and its last words."""


class Clove:
    """The `clove` binary as a set of functions."""

    def __init__(self, program: str) -> None:
        self.program = program

    @classmethod
    def find(cls) -> Clove:
        """CLOVE_BIN, or `clove` on PATH."""
        named = os.environ.get("CLOVE_BIN")
        program = named or shutil.which("clove")
        if not program:
            raise CliFailed("there is no `clove` on PATH: build it (`cargo build --release`) or set CLOVE_BIN=FILE.")
        if not os.access(program, os.X_OK):
            raise CliFailed(f"CLOVE_BIN names {program}, which isn't an executable file.")
        return cls(program)

    def sweep_run(self, file: Path) -> str:
        """Start a detached sweep; its id."""
        return str(self._json("sweep", "run", str(file), "-d", "--json")["id"])

    def sweep_watch(self, run: str) -> WatchedSweep:
        """Every change of a task's state, until the run ends."""
        return WatchedSweep([self.program, "sweep", "watch", run, "--json"])

    def sweep_inspect(self, run: str, index: int) -> dict[str, Any]:
        """One task with its result so far and the certificates of its attempts that died."""
        task: dict[str, Any] = self._json("sweep", "inspect", run, str(index), "--json")
        return task

    def sweep_show(self, run: str) -> dict[str, Any]:
        """The counts of a run: total, done, failed, quarantined."""
        shown: dict[str, Any] = self._json("sweep", "show", run, "--json")
        return shown

    def sweep_results(self, run: str) -> list[dict[str, Any]]:
        """Every task with its result and the certificates of all its attempts."""
        listed: list[dict[str, Any]] = self._json("sweep", "results", run, "--json")
        return listed

    def sweep_cancel(self, run: str) -> None:
        """End a run that nobody waits for any more."""
        self._run("sweep", "cancel", run)

    def kill(self, name: str) -> None:
        """End one agent, as a user would by hand."""
        self._run("kill", name)

    def agent_pids(self) -> dict[str, int]:
        """Agent id to host pid, of all that live."""
        return {str(one["id"]): int(one["pid"]) for one in self._json("ps", "--json") if one.get("pid")}

    def kernel_info(self) -> dict[str, Any]:
        """The pids of kernel and launcher; the kernel is started if there is none."""
        self._run("kernel", "socket", "--start")
        info: dict[str, Any] = self._json("kernel", "info", "--json")
        return info

    def _json(self, *arguments: str) -> Any:
        text = self._run(*arguments)
        try:
            return json.loads(text)
        except ValueError as error:
            raise CliFailed(f"`clove {' '.join(arguments)}` printed something that isn't JSON ({error}).") from error

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self.program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=ANSWER_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CliFailed(f"`clove {' '.join(arguments)}` hasn't answered for {ANSWER_S:.0f} s.") from error
        except OSError as error:
            raise CliFailed(f"can't start {self.program}: {error.strerror}.") from error
        if done.returncode != 0:
            words = [line.strip() for line in done.stderr.splitlines() if line.startswith("clove: error:")]
            words = words or done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise CliFailed(f"`clove {' '.join(arguments)}` ended with {done.returncode}: {for_terminal(words[0])}")
        return done.stdout


class TaskChange(NamedTuple):
    """Where a task of a watched sweep stands now; several changes in a row may have become one."""

    number: int
    name: str
    state: str
    # From 1; 0 for a task that hasn't begun.
    attempt: int
    agent: str | None
    # None for one that has only just begun.
    pid: int | None
    started_ms: int | None
    ended_ms: int | None
    seconds: float | None

    @property
    def deaths(self) -> int:
        """How many attempts must have failed for it to stand there."""
        return self.attempt if self.state in FAILED_STATES else max(0, self.attempt - 1)


class WatchedSweep:
    """A running `clove sweep watch`, as an iterator over its tasks' changes."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self.pid = self._process.pid

    def __iter__(self) -> Iterator[TaskChange]:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        over: dict[str, Any] | None = None
        for line in self._process.stdout:
            kind, found = self._read(line)
            if kind == "run":
                over = found
            elif kind == "task":
                yield self._change(found, line)
        complaint = self._process.stderr.read().strip()
        if self._process.wait() != 0:
            raise CliFailed(f"`{self._spoken()}` ended with {self._process.returncode}: {for_terminal(complaint)}")
        if over is None or over.get("state") != "finished":
            state = over.get("state") if over else "unknown"
            why = f": {over['message']}" if over and over.get("message") else ""
            raise CliFailed(f"the sweep hasn't finished, it is {for_terminal(str(state) + why)}")

    def close(self) -> None:
        """Stop watching; the sweep goes on."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()

    def _read(self, line: str) -> tuple[str, dict[str, Any]]:
        try:
            event = json.loads(line)
            kind = str(event["kind"])
            return kind, dict(event.get(kind) or {})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._not_understood(line) from error

    def _change(self, task: dict[str, Any], line: str) -> TaskChange:
        try:
            return TaskChange(
                int(task["index"]),
                str(task["name"]),
                str(task["state"]),
                int(task["attempts"]),
                task.get("agent"),
                task.get("pid"),
                task.get("started_ms"),
                task.get("ended_ms"),
                task.get("seconds"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._not_understood(line) from error

    def _not_understood(self, line: str) -> CliFailed:
        return CliFailed(
            f"`{self._spoken()}` printed a line that this demo doesn't understand: {for_terminal(line[:200])}"
        )

    def _spoken(self) -> str:
        return " ".join(["clove", *self._command[1:]])


def spent_cpu_s(certificate: Mapping[str, Any]) -> float:
    """CPU seconds that a certificate accounts for."""
    usage = certificate.get("usage") or {}
    return (float(usage.get("cpu_user_us") or 0) + float(usage.get("cpu_system_us") or 0)) / 1e6


def end_word(certificate: Mapping[str, Any]) -> str:
    """What ended an attempt, in a word: the cause, or the signal's name if that says more."""
    cause, number = certificate.get("cause") or "died", certificate.get("signal")
    if cause == "signal" and number in {one.value for one in signal.Signals}:
        return signal.Signals(int(str(number))).name
    return for_terminal(cause)


def killed_by(certificate: Mapping[str, Any]) -> str | None:
    """Who killed, in words, if somebody did."""
    who = certificate.get("killed_by")
    if not isinstance(who, dict):
        return None
    words = [str(who.get("kind"))]
    if who.get("command"):
        words.append(f"command {who['command']}")
    words += [f"{key} {who[key]}" for key in ("pid", "uid") if who.get(key) is not None]
    return for_terminal(", ".join(words))
