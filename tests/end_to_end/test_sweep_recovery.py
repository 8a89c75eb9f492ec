"""Sweeps outlive terminals, launchers and kernels: exactly one accepted result each, and nothing shown as done runs again."""

from __future__ import annotations

import collections
import json
import os
import signal
import threading
from typing import Dict, Set

import pytest
from conftest import HEAVY
from deadline import until
from house import House, finish

#: Each execution of a task leaves a line in a folder of the host.
COUNTED = """
    import ctypes, os, time

    def run(config, shared):
        fd = os.open("/log/ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(fd, f"{config['i']}\\n".encode())
        os.close(fd)
        if config["i"] == config.get("segv"): ctypes.string_at(0)
        if config["i"] == config.get("leak"):
            x = []
            while True: x.append(bytearray(1 << 20))
        time.sleep(config.get("s", 0.02))
        return {"square": config["i"] ** 2}
"""


class Trials:
    """A sweep of counted tasks, and who watches which were shown as done."""

    def __init__(self, house: House, n: int, **config: object) -> None:
        self.house, self.n = house, n
        self.log = house.work / "log"
        self.log.mkdir()
        house.write("counted.py", COUNTED)
        (house.work / "list.jsonl").write_text("".join(json.dumps({"i": i, **config}) + "\n" for i in range(n)))
        self.args = ["sweep", "run", "counted.py", "--list", "list.jsonl", "-v", f"{self.log}:/log:rw"]
        #: What was seen as done, at any time.
        self.done: Set[int] = set()

    def runs(self) -> Dict[int, int]:
        """How often each task was executed so far."""
        path = self.log / "ran"
        return collections.Counter(int(i) for i in path.read_text().split()) if path.exists() else {}

    def ran(self, n: int) -> None:
        until(lambda: len(self.runs()) >= n, f"{n} tasks begun", 240)

    def watch(self) -> threading.Thread:
        """Notes what `sweep watch` shows as done, until the kernel is gone."""
        return self.house.watch_done("last", self.done)


@pytest.mark.parametrize("leave", ["hangup", "sigkill", "sigterm"])
def test_a_closed_terminal_only_ends_the_showing(house: House, leave: str) -> None:
    trials = Trials(house, 30, s=0.1)
    terminal = house.terminal(*trials.args)
    trials.ran(3)
    if leave == "hangup":
        terminal.hang_up()
    else:
        terminal.child.send_signal(signal.SIGKILL if leave == "sigkill" else signal.SIGTERM)
    terminal.child.wait(timeout=30)
    assert house.shown()["state"] == "active"
    attached = house.clove("sweep", "attach", "last")
    assert attached.code == 0 and "30 of 30 done" in attached.out, f"\n{attached}"
    assert trials.runs() == dict.fromkeys(range(30), 1)
    os.close(terminal.master) if terminal.master >= 0 else None


def test_one_ctrl_c_asks_and_two_cancel(house: House) -> None:
    trials = Trials(house, 200, s=0.1)
    terminal = house.terminal(*trials.args)
    trials.ran(1)
    until(lambda: house.shown()["done"] >= 2, "two done")
    terminal.type(b"\x03")
    terminal.expect("Ctrl-C again")
    assert house.shown()["state"] == "active"
    terminal.type(b"\x03")
    assert terminal.wait() == 130
    show = house.shown()
    assert show["state"] == "cancelled" and 0 < show["done"] < 200 and show["running"] == 0
    kept = {i: t["result"] for i, t in house.results().items() if t["state"] == "done"}
    assert all(r == {"square": i * i} for i, r in kept.items())


def test_cancel_keeps_what_is_done_and_resume_does_the_rest(house: House) -> None:
    trials = Trials(house, 24, s=0.1)
    house.clove(*trials.args, "-d").ok()
    until(lambda: house.shown()["done"] >= 4, "four done")
    house.clove("sweep", "cancel", "last").ok()
    show = house.shown()
    done = {i for i, t in house.results().items() if t["state"] == "done"}
    assert show["state"] == "cancelled" and len(done) >= 4 and show["cancelled"] == 24 - len(done)
    house.clove("sweep", "resume", "last").ok()
    assert house.shown()["done"] == 24
    assert all(trials.runs()[i] == 1 for i in done)


def test_one_task_is_cancelled_alone(house: House) -> None:
    trials = Trials(house, 4, s=1000)
    house.clove(*trials.args, "-d", "-j", "2").ok()
    trials.ran(2)
    house.clove("sweep", "cancel", "last", "0").ok()
    trials.ran(3)
    assert house.results()[0]["state"] == "cancelled" and house.shown()["state"] == "active"
    house.clove("sweep", "cancel", "last").ok()


def test_kill_9_of_everything_twice_loses_nothing_and_repeats_nothing_done(house: House) -> None:
    trials = Trials(house, 60)
    house.clove(*trials.args, "-d").ok()
    settled: Dict[int, int] = {}
    for share in (20, 40):
        watching = trials.watch()
        trials.ran(share)
        house.kill_everything()
        watching.join(30)
        assert len(trials.done) > share // 2, "the watcher saw nothing"
        before = trials.runs()
        settled.update({i: before[i] for i in trials.done - settled.keys()})
        done = {i for i, t in house.results().items() if t["state"] == "done"}
        assert trials.done <= done, f"shown as done, but lost: {trials.done - done}"
        assert house.shown()["state"] == "interrupted"
        assert trials.runs() == before, "it went on without being asked to"
        house.check()
        finish(house.start("sweep", "resume", "last", "-d")).ok()
    house.clove("sweep", "attach", "last").ok()
    results = house.results()
    assert {i: t["result"] for i, t in results.items()} == {i: {"square": i * i} for i in range(60)}
    runs = trials.runs()
    assert {i: runs[i] for i in settled} == settled, "shown as done, and run again"
    # At most those that ran when the power went were begun twice.
    assert sum(runs.values()) <= 60 + 2 * len(os.sched_getaffinity(0)), runs


def test_kill_9_of_the_kernel_alone(house: House) -> None:
    trials = Trials(house, 40)
    child = house.start(*trials.args)
    trials.ran(10)
    house.kill_kernel()
    ended = finish(child, patience=60)
    assert ended.code == 125 and "clove sweep resume r1" in ended.err, f"\n{ended}"
    done = {i for i, t in house.results().items() if t["state"] == "done"}
    house.clove("sweep", "resume", "last").ok()
    assert {i: t["result"]["square"] for i, t in house.results().items()} == {i: i * i for i in range(40)}
    assert all(trials.runs()[i] == 1 for i in done)


def test_killing_the_launcher_is_survived(house: House) -> None:
    trials = Trials(house, 30)
    child = house.start(*trials.args)
    trials.ran(8)
    os.kill(house.json("kernel", "info")["launcher_pid"], signal.SIGKILL)
    ended = finish(child, patience=60)
    if house.shown()["done"] != 30:
        assert "resume" in ended.err, f"\n{ended}"
        house.clove("sweep", "resume", "last").ok()
    assert {i: t["result"]["square"] for i, t in house.results().items()} == {i: i * i for i in range(30)}


def test_many_trials_with_two_faults_and_every_disaster(house: House) -> None:
    n, segv, leak = (2000, 847, 1203) if HEAVY else (300, 127, 181)
    trials = Trials(house, n, segv=segv, leak=leak, s=0.0)
    terminal = house.terminal(*trials.args, "-m", "128m", "--retry-deaths", "0")
    trials.ran(n // 3)
    terminal.hang_up()
    terminal.child.wait(timeout=30)
    watching = trials.watch()
    trials.ran(n * 2 // 3)
    house.kill_everything()
    watching.join(30)
    done = {i for i, t in house.results().items() if t["state"] == "done"}
    assert trials.done <= done and len(trials.done) > n // 3
    ended = house.clove("sweep", "resume", "last", patience=900)
    assert ended.code == 1, f"\n{ended}"
    results = house.results()
    good = {i: t["result"]["square"] for i, t in results.items() if t["state"] == "done"}
    assert good == {i: i * i for i in range(n) if i not in (segv, leak)}
    assert [c["cause"] for c in results[segv]["certificates"]][-1:] == ["signal"] and results[segv]["certificates"][-1][
        "signal"
    ] == 11
    assert [c["cause"] for c in results[leak]["certificates"]][-1:] == ["oom"]
    runs = trials.runs()
    assert not {i for i in done if runs[i] > 1}, "shown as done, and run again"
