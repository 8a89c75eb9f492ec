"""The kill of an agent that ignores what signals it can, with fifty children that do too; what others feel of it."""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import Any

from bench import Bench
from figures import Figure, Row, at_most, percentile
from kernel_home import KernelHome, rust_answer
from peers import INSIDE
from sdk import Client, descendants, read_stat

TITLE = "kill of an agent that ignores SIGTERM, 50 children"
CHILDREN = 50


def run(bench: Bench) -> list[Row]:
    """Each round: some kills, while another client pings all the time."""
    kills = bench.size(100, 3)
    gone: list[list[float]] = []
    certified: list[list[float]] = []
    during: list[list[float]] = []
    beside: list[list[float]] = []
    with bench.home() as home:
        for round_ in range(bench.rounds):
            bench.say(f"round {round_ + 1} of {bench.rounds}")
            with home.rust_started({"ping": {"rest_us": 200}}) as pinger:
                try:
                    with home.client() as client:
                        spans = [_kill(home, client, bench) for _ in range(kills)]
                finally:
                    out, err = pinger.communicate()
                pings = rust_answer(pinger, out, err)
            gone.append([(span["gone"] - span["from"]) / 1e6 for span in spans])
            certified.append([(span["to"] - span["from"]) / 1e6 for span in spans])
            hit = [_overlaps(at, at + ns, spans) for at, ns in zip(pings["at_ns"], pings["ns"], strict=True)]
            during.append([ns / 1e3 for ns, is_hit in zip(pings["ns"], hit, strict=True) if is_hit])
            beside.append([ns / 1e3 for ns, is_hit in zip(pings["ns"], hit, strict=True) if not is_hit])

    def at(rounds: list[list[float]], percent: float) -> Figure:
        return Figure.of([percentile(values, percent) for values in rounds])

    others = "the same client's between the kills"
    return [
        Row("until the whole tree is gone, p99", "ms", at(gone, 99), must=at_most(100),
            note=f"{kills} kills in a round; {CHILDREN + 2} processes each, watched by their pidfds"),
        Row("until the whole tree is gone, p50", "ms", at(gone, 50)),
        Row("until proc.wait has the certificate, p99", "ms", at(certified, 99)),
        Row("another client's pings during the kills, p50", "us", at(during, 50), at(beside, 50), others,
            at_most(1.3), None, "ratio", f"{len(during[0])} pings during, {len(beside[0])} between"),
        Row("another client's pings during the kills, p99", "us", at(during, 99), at(beside, 99), others,
            at_most(2000)),
    ]  # fmt: skip


def _overlaps(began: int, ended: int, spans: list[dict[str, int]]) -> bool:
    return any(began < span["to"] and ended > span["from"] for span in spans)


def _kill(home: KernelHome, client: Client, bench: Bench) -> dict[str, int]:
    """One agent's start and end; the moments in nanoseconds of CLOCK_MONOTONIC."""
    spawn: dict[str, Any] = {
        "argv": [f"{INSIDE}/stubborn", str(CHILDREN)],
        "limits": {"memory_bytes": 64 << 20, "pids": CHILDREN + 14},
        "mounts": [{"source": str(bench.places.programs), "target": INSIDE, "writable": False}],
        "attached": True,
        "remove": True,
    }
    agent = client.call("proc.spawn", spawn)[0]["agent"]
    said, offset = b"", 0
    while b"ready" not in said:
        reply, tail = client.call("proc.logs", {"target": agent, "offset": offset, "follow": True})
        said, offset = said + tail, reply["next"]
        if reply["eof"]:
            raise RuntimeError("the stubborn program ended by itself")
    program = client.call("proc.inspect", {"target": agent})[0]["info"]["pid"]
    stat = read_stat(program)
    if stat is None:
        raise RuntimeError("the stubborn program is gone")
    # Its parent is the init of its PID namespace.
    tree = descendants([stat.parent])
    if len(tree) != CHILDREN + 2:
        raise RuntimeError(f"{len(tree)} processes instead of {CHILDREN + 2}")
    with contextlib.ExitStack() as stack:
        poll = select.poll()
        for pid in tree:
            fd = os.pidfd_open(pid)
            stack.callback(os.close, fd)
            poll.register(fd, select.POLLIN)
        # It does ignore SIGTERM: nothing ends of it.
        client.call("proc.kill", {"target": agent, "signal": 15})
        if poll.poll(20):
            raise RuntimeError("SIGTERM ended the stubborn program")
        began = time.monotonic_ns()
        client.call("proc.kill", {"target": agent})
        left = len(tree)
        while left:
            for fd, _ in poll.poll(60_000) or _too_long():
                poll.unregister(fd)
                left -= 1
        gone = time.monotonic_ns()
        certificate = client.call("proc.wait", {"target": agent})[0]["certificate"]
    if certificate["cause"] != "killed":
        raise RuntimeError(f"the certificate says {certificate['cause']}, not killed")
    return {"from": began, "gone": gone, "to": time.monotonic_ns()}


def _too_long() -> list[tuple[int, int]]:
    raise TimeoutError("a process of the killed agent still lives after a minute")
