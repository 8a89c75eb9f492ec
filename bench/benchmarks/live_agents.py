"""Many live agents of one template, each connected, one syscall and one numpy call done: what each of them costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from bench import Bench
from figures import Figure, Row, at_most
from kernel_home import KernelHome
from memory import settled_available_bytes
from patience import until
from places import CONTESTANTS
from sdk import Client, descendants, pss_bytes

TITLE = "2,000 live warm agents of the scikit-learn template"
MIB = 1 << 20
PATIENCE_S = 600.0


def run(bench: Bench) -> list[Row]:
    """Each round from a kernel that has nothing to a house full, and back."""
    agents = bench.size(2000, 40)
    each, kernel, launcher, pss, seconds = [], [], [], [], []
    for round_ in range(bench.rounds):
        bench.say(f"round {round_ + 1} of {bench.rounds}")
        with bench.home() as home:
            before = settled_available_bytes()
            began = time.monotonic()
            # An eighth is left for the template, the kernel and the host.
            share = int(home.info()["capacity_bytes"] * 7 / 8 / agents)
            orders = {"agents": agents, "memory_bytes": min(16 * MIB, share)}
            child = subprocess.Popen(
                [sys.executable, CONTESTANTS / "live_agents.py", json.dumps(orders)],
                env=home.env, cwd=home.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                _wait_for_all(home, agents, child)
                seconds.append(time.monotonic() - began)
                kernel_pid, launcher_pid = home.pids()
                each.append((before - settled_available_bytes()) / agents / MIB)
                kernel.append(pss_bytes(kernel_pid)[1] / MIB)
                launcher.append(pss_bytes(launcher_pid)[1] / MIB)
                tree = descendants([launcher_pid])
                pss.append(sum(pss_bytes(pid)[0] for pid in tree) / agents / MIB)
            finally:
                child.kill()
                child.wait()
            until(lambda home=home: home.info()["agents"] == 0, "the end of all agents", PATIENCE_S)  # type: ignore[misc]
    note = "all that MemAvailable fell by, template and submitting process included, by the number of agents"
    return [
        Row(f"{agents} agents: memory of each, by MemAvailable", "MiB", Figure.of(each), must=at_most(3),
            aim=at_most(2), note=note),
        Row("the kernel itself, resident", "MB", Figure.of([x * MIB / 1e6 for x in kernel]), must=at_most(100)),
        Row("the launcher, resident", "MB", Figure.of([x * MIB / 1e6 for x in launcher])),
        Row("memory of each, by proportional set sizes", "MiB", Figure.of(pss),
            note="launcher, templates, inits and agents; without what Linux itself keeps for them"),
        Row("until all of them lived", "s", Figure.of(seconds)),
    ]  # fmt: skip


def _wait_for_all(home: KernelHome, agents: int, child: subprocess.Popen[bytes]) -> None:
    """Until each has said that it is ready."""

    def all_run() -> bool:
        if child.poll() is not None:
            raise RuntimeError(f"the submitting process ended with {child.returncode}")
        return [agent["state"] for agent in listed()].count("running") >= agents

    with home.client() as client:

        def listed() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = client.call("proc.list", {})[0]["agents"]
            return found

        until(all_run, f"{agents} running agents", PATIENCE_S)
        for agent in listed():
            _wait_for_ready(client, agent["id"])


def _wait_for_ready(client: Client, agent: str) -> None:
    said, offset = b"", 0
    while b"ready" not in said:
        reply, tail = client.call("proc.logs", {"target": agent, "offset": offset, "follow": True})
        said, offset = said + tail, reply["next"]
        if reply["eof"]:
            end = client.call("proc.inspect", {"target": agent})[0]["certificate"]
            raise RuntimeError(f"{agent} ended: {end and end['message']}; it said {said!r}")
