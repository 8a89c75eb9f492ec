#!/usr/bin/env python3
"""A stand-in for `clove`, for tests of the demo only: it forks a process per task and isolates nothing.

It speaks the few commands and the JSON that `cloveos.demo.clove_cli` relies on. State lies in FAKE_CLOVE_DIR.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STATE = Path(os.environ["FAKE_CLOVE_DIR"])
BACKOFF_S = 0.2


def value(text: str) -> Any:
    """One TOML value of the kinds that the demo writes."""
    text = text.strip()
    if text.startswith("{"):
        pairs = re.findall(r'(\w+) = ("(?:[^"\\]|\\.)*"|[^,}]+)', text)
        return {key: value(one) for key, one in pairs}
    return {"true": True, "false": False}.get(text) if text in ("true", "false") else json.loads(text)


def parse(text: str) -> dict[str, Any]:
    """The subset of TOML that the demo writes; Python 3.9 has no tomllib."""
    found: dict[str, Any] = {"list": []}
    into = found
    for line in text.splitlines():
        header = re.fullmatch(r"\[+(\w+)\]+", line)
        if header:
            into = found[header.group(1)] = {}
        elif line.startswith("  {"):
            found["list"].append(value(line.strip().rstrip(",")))
        elif " = " in line and not line.endswith("["):
            key, _, rest = line.partition(" = ")
            into[key] = value(rest)
    return found


def emit(kind: str, event: dict[str, Any]) -> None:
    with open(STATE / "events", "a") as file:
        file.write(json.dumps({"kind": kind, kind: event}) + "\n")


def tell(entries: list[dict[str, Any]], number: int) -> None:
    """A change of a task: for whoever watches without what is large, and for whoever asks with it."""
    entry = entries[number]
    emit("task", {**entry, "certificates": [], "result": None})
    (STATE / "results.tmp").write_text(json.dumps(entries))
    (STATE / "results.tmp").rename(STATE / "results")


def child(module: Any, shared: Any, config: dict[str, Any], attempt: int, write: int, cap: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    os.environ["CLOVE_ATTEMPT"] = str(attempt)
    try:
        answer = json.dumps(module.run(config, shared))
    except MemoryError:
        os.kill(os.getpid(), signal.SIGUSR1)
        raise
    os.write(write, answer.encode())
    os._exit(0)


def serve() -> None:
    """Wait for one sweep, run it, write what happened."""
    while not (STATE / "sweep").exists():
        time.sleep(0.01)
    sweep = parse(Path((STATE / "sweep").read_text()).read_text())
    os.environ.update({key: str(one) for key, one in sweep["env"].items()})
    spec = importlib.util.spec_from_file_location("experiment", sweep["script"])
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shared = module.setup()
    cap = int(sweep["limits"]["memory"].rstrip("b"))
    entries = [
        {
            "id": f"r1/{number}", "index": number, "pid": None,
            "started_ms": None, "ended_ms": None, "seconds": None,
            "state": "pending", "attempts": 0, "certificates": [], "result": None,
            "name": f"{config['target']}-{config['model']}",
        }
        for number, config in enumerate(sweep["list"])
    ]  # fmt: skip
    waiting: list[tuple[float, int]] = [(0.0, number) for number in range(len(entries))]
    running: dict[int, tuple[int, int, float]] = {}
    while waiting or running:
        while waiting and len(running) < sweep["jobs"] and waiting[0][0] <= time.time():
            _, number = waiting.pop(0)
            entries[number]["attempts"] += 1
            attempt = entries[number]["attempts"]
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                child(module, shared, sweep["list"][number], attempt, write, cap)
            os.close(write)
            running[pid] = (number, read, time.time())
            (STATE / f"pid-{entries[number]['name']}").write_text(str(pid))
            entries[number].update(
                state="running", agent=f"a{pid}.1", pid=None, started_ms=int(time.time() * 1000), ended_ms=None
            )
            tell(entries, number)
        if not running:
            time.sleep(0.005)
            continue
        pid, status, usage = os.wait3(os.WNOHANG if waiting else 0)
        if pid == 0:
            time.sleep(0.005)
            continue
        number, read, started = running.pop(pid)
        entry = entries[number]
        with os.fdopen(read) as pipe:
            answer = pipe.read()
        number_of_signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        cause = {signal.SIGSEGV: "signal", signal.SIGUSR1: "oom", signal.SIGKILL: "killed"}.get(
            number_of_signal or 0, "exit"
        )
        entry.update(ended_ms=int(time.time() * 1000), seconds=time.time() - started)
        if answer:
            entry["state"], entry["result"] = "done", json.loads(answer)
        else:
            entry["certificates"].append(
                {
                    "cause": cause, "message": f"signal {number_of_signal or 0}", "agent": f"a{pid}.1",
                    "attempt": entry["attempts"],
                    "started_ms": int(started * 1000), "ended_ms": entry["ended_ms"], "signal": number_of_signal,
                    "usage": {"cpu_user_us": usage.ru_utime * 1e6, "cpu_system_us": usage.ru_stime * 1e6,
                              "peak_memory_bytes": usage.ru_maxrss * 1024},
                    "killed_by": {"kind": "operator", "uid": os.getuid(), "pid": 1, "command": "clove"}
                    if cause == "killed" else None,
                }
            )  # fmt: skip
            if entry["attempts"] < 3:
                entry["state"] = "backoff"
                waiting.append((time.time() + BACKOFF_S, number))
                waiting.sort()
            else:
                entry["state"] = "quarantined"
        tell(entries, number)
    emit("run", {"id": "r1", "state": "finished"})


def main() -> None:
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    if words[:2] == ["kernel", "socket"]:
        print("/nowhere/k.sock")
    elif words[:2] == ["kernel", "info"]:
        python = os.environ.get("FAKE_CLOVE_PYTHON", sys.executable)
        with open(STATE / "log", "w") as log:
            command = [python, __file__, "serve"]
            server = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        print(json.dumps({"pid": server.pid, "launcher_pid": None}))
    elif words == ["serve"]:
        serve()
    elif words[:2] == ["sweep", "run"]:
        (STATE / "sweep.tmp").write_text(words[2])
        (STATE / "sweep.tmp").rename(STATE / "sweep")
        print(json.dumps({"id": "r1"}))
    elif words[:2] == ["sweep", "watch"]:
        (STATE / "events").touch()
        with open(STATE / "events") as file:
            while True:
                line = file.readline()
                if line.endswith("\n"):
                    print(line, end="", flush=True)
                    if json.loads(line)["kind"] == "run":
                        return
                else:
                    time.sleep(0.005)
    elif words[:2] == ["sweep", "results"]:
        print((STATE / "results").read_text())
    elif words[:1] == ["ps"]:
        running = [one for one in json.loads((STATE / "results").read_text()) if one["state"] == "running"]
        print(json.dumps([{"id": one["agent"], "pid": int(one["agent"][1:-2])} for one in running]))
    elif words[:2] == ["sweep", "inspect"]:
        print(json.dumps(json.loads((STATE / "results").read_text())[int(words[3])]))
    elif words[:1] == ["kill"] and os.environ.get("FAKE_CLOVE_KILL"):
        sys.exit(f"clove: error: {os.environ['FAKE_CLOVE_KILL']}")
    elif words[:1] == ["kill"]:
        os.kill(int((STATE / f"pid-{words[1]}").read_text()), signal.SIGKILL)
    else:
        sys.exit(f"fake clove: unknown command {words}")


if __name__ == "__main__":
    main()
