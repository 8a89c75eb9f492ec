"""Who outlives whom: command, agent, kernel."""

from __future__ import annotations

import os
import signal

import pytest
from deadline import until
from house import House, alive, finish


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_an_attached_command_that_is_killed_takes_its_agent_along(house: House, sig: int) -> None:
    child = house.start("run", "--name", "mine", "--", "sh", "-c", "setsid sleep 1000 & sleep 1000")
    house.clove("run", "-d", "--name", "theirs", "--", "sleep", "1000").ok()
    pid, other = house.running("mine")["pid"], house.running("theirs")["pid"]
    child.send_signal(sig)
    child.wait(timeout=30)
    until(lambda: not alive(pid), "the agent's end")
    until(lambda: house.agent("mine").get("state") == "ended", "the certificate")
    certificate = house.json("inspect", "mine")["certificate"]
    # What can be passed on is passed on, as docker does; a program that doesn't handle it dies of it.
    assert certificate["cause"] in ("cancelled", "killed") and "crashed" not in certificate["message"], certificate
    assert house.running("theirs")["pid"] == other and alive(other)


def test_commands_at_once_share_one_kernel(house: House) -> None:
    children = [house.start("run", "--", "sh", "-c", f"echo {i}") for i in range(6)]
    ends = [finish(c) for c in children]
    assert [(e.code, e.out, e.err) for e in ends] == [(0, f"{i}\n", "") for i in range(6)]
    info = house.json("kernel", "info")
    assert sorted(house.kernel_pids()) == sorted([info["pid"], info["launcher_pid"]])


def test_data_directory_is_private(house: House) -> None:
    house.clove("run", "--", "true").ok()
    assert os.stat(house.home).st_mode & 0o777 == 0o700
    socket = house.clove("kernel", "socket").out.strip()
    assert len(socket) < 108 and os.stat(os.path.dirname(socket)).st_mode & 0o777 == 0o700


def test_the_kernel_leaves_when_idle_and_the_next_command_starts_another(house: House) -> None:
    serve = house.start("serve", "--idle-timeout", "300ms")
    assert finish(serve, patience=30).code == 0
    until(lambda: not house.kernel_pids(), "the end of the kernel")
    assert house.clove("run", "--", "echo", "back").out == "back\n"


def test_a_kernel_in_the_foreground_serves_and_ends_on_sigterm(house: House) -> None:
    serve = house.start("serve")
    until(lambda: house.clove("kernel", "info").code == 0, "the kernel to answer")
    assert house.json("kernel", "info")["pid"] == serve.pid
    second = house.clove("serve")
    assert second.code == 125 and str(house.home) in second.err and "clove stop" in second.err, f"\n{second}"
    assert house.clove("run", "--", "echo", "hello").out == "hello\n"
    serve.send_signal(signal.SIGTERM)
    assert finish(serve).code == 0


def test_a_killed_kernel_is_followed_by_one_that_knows_what_was(house: House) -> None:
    house.clove("run", "--name", "before", "--", "sh", "-c", "echo kept; exit 4")
    house.clove("run", "-d", "--name", "during", "--", "sleep", "1000").ok()
    house.running("during")
    house.kill_everything()
    assert house.json("inspect", "before")["certificate"]["exit_code"] == 4
    assert house.clove("logs", "before").out == "kept\n"
    assert house.json("inspect", "during")["certificate"]["cause"] == "lost"
    assert house.clove("run", "--", "echo", "after").out == "after\n"


def test_an_attached_command_whose_kernel_dies_says_so(house: House) -> None:
    child = house.start("run", "--name", "orphan", "--", "sleep", "1000")
    house.running("orphan")
    house.kill_everything()
    ended = finish(child, patience=30)
    assert ended.code == 125 and "clove: error: the connection to the kernel was lost" in ended.err, f"\n{ended}"
