"""`kernel.ping`, there and back: alone, with many live agents, and beside clients that keep the kernel busy."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from bench import Bench
from figures import Figure, Row, at_most, percentile
from kernel_home import KernelHome, rust_answer
from patience import until
from peers import INSIDE
from places import CONTESTANTS

TITLE = "kernel.ping"
US = 1000.0
#: Of the CPUs that this may run on.
_ONE_CPU = str(min(os.sched_getaffinity(0)))


def run(bench: Bench) -> list[Row]:
    """Each round: alone from Rust and Python, with live agents, with other clients at work."""
    count = bench.size(50_000, 500)
    agents = bench.size(1000, 20)
    now_and_then = bench.size(30_000, 500)
    found: list[dict[str, list[int]]] = []
    busy: dict[str, int] = {}
    with bench.home() as home:
        for round_ in range(bench.rounds):
            bench.say(f"round {round_ + 1} of {bench.rounds}")
            once = {"free": _rust(home, count, pinned=False)}
            with _kernel_on_one_cpu(home):
                once["rust"] = _rust(home, count, pinned=True)
                once["python"] = _python(home, count)
            with _live_agents(home, bench, agents):
                once["agents, free"] = _rust(home, count, pinned=False)
                with _kernel_on_one_cpu(home):
                    once["agents"] = _rust(home, count, pinned=True)
                    once["agents, python"] = _python(home, count)
            once["quiet"] = _rust_now_and_then(home, now_and_then)
            with _others_at_work(home, bench.size(2000, 100), busy):
                once["busy"] = _rust_now_and_then(home, now_and_then)
            found.append(once)

    def at(name: str, percent: float) -> Figure:
        return Figure.of([percentile(once[name], percent) / US for once in found])

    alone = "without agents"
    return [
        Row("Rust, one CPU, p50", "us", at("rust", 50), must=at_most(12), aim=at_most(10)),
        Row("Rust, one CPU, p99", "us", at("rust", 99)),
        Row("Python, one CPU, p50", "us", at("python", 50), must=at_most(20), aim=at_most(15)),
        Row("Python, one CPU, p99", "us", at("python", 99)),
        Row("Rust, wherever Linux puts both, p50", "us", at("free", 50)),
        Row(f"Rust, one CPU, {agents} live agents, p50", "us", at("agents", 50), at("rust", 50), alone,
            at_most(1.3), None, "ratio"),
        Row(f"Python, one CPU, {agents} live agents, p50", "us", at("agents, python", 50), at("python", 50), alone,
            at_most(1.3), None, "ratio"),
        Row(f"Rust, wherever Linux puts both, {agents} live agents, p50", "us", at("agents, free", 50), at("free", 50),
            alone),
        Row("while another syncs and another scans, p99.9", "us", at("busy", 99.9), at("quiet", 99.9), "nobody else",
            at_most(2000), note=f"they came around {busy.get('syncs', 0)} and {busy.get('scans', 0)} times in all"),
        Row("while another syncs and another scans, p50", "us", at("busy", 50), at("quiet", 50), "nobody else"),
    ]  # fmt: skip


def _rust(home: KernelHome, count: int, *, pinned: bool) -> list[int]:
    prefix = ["taskset", "-c", _ONE_CPU] if pinned else []
    ns: list[int] = home.rust({"ping": {"count": count, "warm_up": 200}}, prefix)["ns"]
    return ns


def _rust_now_and_then(home: KernelHome, count: int) -> list[int]:
    """With a rest after each: what happens between two calls is met in the proportion in which it happens."""
    ns: list[int] = home.rust({"ping": {"count": count, "warm_up": 200, "rest_us": 100}})["ns"]
    return ns


def _python(home: KernelHome, count: int) -> list[int]:
    command = ["taskset", "-c", _ONE_CPU, sys.executable, str(CONTESTANTS / "ping_python.py"), home.socket, str(count)]
    done = subprocess.run(command, env=home.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    ns: list[int] = json.loads(done.stdout)
    return ns


@contextlib.contextmanager
def _kernel_on_one_cpu(home: KernelHome) -> Iterator[None]:
    """All threads of the kernel on the CPU of its client, and back again."""
    threads = [int(name) for name in os.listdir(f"/proc/{home.pids()[0]}/task")]
    before = {thread: os.sched_getaffinity(thread) for thread in threads}
    for thread in threads:
        os.sched_setaffinity(thread, {int(_ONE_CPU)})
    try:
        yield
    finally:
        for thread, cpus in before.items():
            os.sched_setaffinity(thread, cpus)


@contextlib.contextmanager
def _live_agents(home: KernelHome, bench: Bench, count: int) -> Iterator[None]:
    """Cold agents that run and do nothing; gone afterwards."""
    with home.client() as client:
        spawn: dict[str, Any] = {
            "argv": [f"{INSIDE}/stubborn"],
            "limits": {"memory_bytes": 8 << 20, "pids": 8},
            "mounts": [{"source": str(bench.places.programs), "target": INSIDE, "writable": False}],
            "attached": True,
            "remove": True,
        }
        for _ in range(count):
            client.call("proc.spawn", spawn)
        if home.info()["agents"] != count:
            raise RuntimeError(f"{home.info()['agents']} agents live instead of {count}")
        yield
    # They were attached to that connection.
    until(lambda: home.info()["agents"] == 0, "the end of the live agents")


@contextlib.contextmanager
def _others_at_work(home: KernelHome, tasks: int, busy: dict[str, int]) -> Iterator[None]:
    """Two more clients: one that waits for fdatasync all the time, one that reads the longest lists all the time."""
    with home.rust_started({"load": {"tasks": tasks}}) as child:
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            rust_answer(child, *child.communicate())
            raise RuntimeError("the load didn't begin")
        try:
            yield
        finally:
            out, err = child.communicate()
    for what, times in rust_answer(child, out, err).items():
        busy[what] = busy.get(what, 0) + times
