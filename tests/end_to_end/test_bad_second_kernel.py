"""One kernel for each data directory: others are turned away in words, and whoever looks for the one finds it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import Dict, List

from conftest import HEAVY
from deadline import until
from house import Ended, House, finish

ROUNDS = 50 if HEAVY else 6


def pid_of(house: House) -> int:
    return int((house.home / "lock").read_text().split()[0])


def turned_away(ended: Ended, house: House) -> bool:
    words = f"clove: error: the kernel can't serve: another kernel (pid {pid_of(house)}) runs on {house.data_dir}\n"
    return (ended.code, ended.err) == (125, words + "  try: clove stop ends it\n")


def test_a_second_kernel_is_turned_away(house: House) -> None:
    first = house.start("serve")
    until(lambda: house.clove("kernel", "info").code == 0, "the first")
    for _ in range(2):
        assert turned_away(house.clove("serve"), house)
    assert first.poll() is None
    house.clove("stop").ok()
    assert first.wait(20) == 0


def test_of_two_that_start_at_once_one_serves(house: House) -> None:
    for i in range(ROUNDS):
        kernels = [house.start("serve") for _ in range(2)]
        asked = [house.start("run", "--", "echo", str(i)) for _ in range(2)]
        assert [finish(c).ok().out for c in asked] == [f"{i}\n"] * 2
        until(lambda k=kernels: sum(c.poll() is None for c in k) <= 1, "the end of one at least")
        house.clove("stop", "--force").ok()
        ended = [finish(k) for k in kernels]
        # Both lose when one that a command has started was quicker.
        lost = [e for e in ended if e.code == 125]
        assert len(lost) >= 1 and all("another kernel" in e.err and "clove stop ends it" in e.err for e in lost)
        assert all(e.code == 0 for e in ended if e not in lost), "\n".join(map(str, ended))


def test_what_a_dead_kernel_left_behind_is_in_nobodys_way(house: House) -> None:
    socket = house.clove("kernel", "socket", "--start").ok().out.strip()
    house.kill_everything()
    assert os.path.exists(socket)
    # Its pid is somebody else's by now, who lives.
    lines = (house.home / "lock").read_text().splitlines()
    (house.home / "lock").write_text(f"{os.getpid()}\n{lines[1]}\n")
    assert house.clove("run", "--", "echo", "on").ok().out == "on\n"
    assert pid_of(house) != os.getpid()


def test_a_socket_that_was_taken_away_is_made_anew(house: House) -> None:
    """By systemd-tmpfiles, or `rm -r /run/clove-*`."""
    socket = house.clove("kernel", "socket", "--start").ok().out.strip()
    pid = pid_of(house)
    house.start("run", "--", "sleep", "1000")
    until(lambda: house.json("ps"), "an agent")
    for what in (socket, os.path.dirname(socket)):
        # In one step: in the middle of several, it would be there again.
        os.rename(what, house.folder / os.path.basename(what))
        assert house.clove("run", "--", "echo", "hi").ok().out == "hi\n"
    assert house.json("kernel", "info")["pid"] == pid and len(house.json("ps")) == 1
    assert house.kernel_log().count("was taken away, and is made anew") == 2
    os.unlink(socket)
    house.clove("stop", "--force").ok()
    assert not os.path.exists(os.path.dirname(socket))
    until(lambda: not house.processes(), "the launcher's end")


def test_a_kernel_is_found_from_other_surroundings(house: House) -> None:
    """Started from a login, asked from cron."""
    login, cron = house.folder / "login", house.folder / "cron"
    for place in (login, cron):
        place.mkdir(mode=0o700)

    def under(place: str) -> Dict[str, str]:
        return {"XDG_RUNTIME_DIR": place}

    started = house.clove("kernel", "socket", "--start", env=under(str(login))).ok().out
    assert started.startswith(str(login))
    for place in (str(cron), "", "/nonexistent", "/dev/null", "relative", str(house.work / ("x" * 200))):
        assert house.clove("kernel", "socket", env=under(place)).ok().out == started
        assert house.clove("ps", env=under(place)).code == 0
    assert turned_away(house.clove("serve", env=under(str(cron))), house)
    # A copy of the folder isn't the folder.
    copy = house.folder / "copy"
    shutil.copytree(house.home, copy)
    ended = house.clove("kernel", "info", env={"CLOVE_HOME": str(copy)})
    assert ended.code == 1 and "no kernel is running for " + str(copy) in ended.err
    house.clove("stop", env=under(str(cron))).ok()
    # Where there is nobody, looking leaves nothing.
    house.clove("stop", env=under(str(cron))).ok()
    assert list(cron.iterdir()) == list(login.iterdir()) == []


def test_a_kernel_that_is_stopped_says_nothing_and_that_is_said(house: House) -> None:
    house.clove("ps").ok()
    pid = pid_of(house)
    os.kill(pid, signal.SIGSTOP)
    try:
        for command in (["ps"], ["stop"], ["run", "--", "true"]):
            ended = house.clove(*command, patience=10)
            words = f"clove: error: the kernel (pid {pid}) of {house.data_dir} is stopped, and doesn't answer\n"
            assert (ended.code, ended.err) == (125, words + f"  try: kill -CONT {pid} lets it go on\n")
    finally:
        os.kill(pid, signal.SIGCONT)
    house.clove("ps").ok()


def test_somebody_else_holds_the_folder(house: House) -> None:
    """As a kernel in another container would that has the same folder."""
    house.home.mkdir(mode=0o700)
    holder = house.start_any(
        ["flock", str(house.home / "lock"), "sh", "-c", "echo held; exec cat"], stdin=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    for ended in (finish(c, patience=20) for c in [house.start("ps"), house.start("stop")]):
        assert ended.code == 125 and f"clove: error: another process holds {house.home}" in ended.err, f"\n{ended}"
        assert "another container" in ended.last_words
    assert holder.stdin is not None
    holder.stdin.close()
    house.clove("ps").ok()


def moved(house: House) -> List[str]:
    return [
        f"clove: error: the journal can't be written: {house.home} was moved or removed while the kernel ran (E0701)",
        f"  try: see that {house.home} is there and has room, then run the command again; "
        "`clove sweep resume` goes on with sweeps that this has interrupted",
    ]


def test_a_data_directory_that_is_moved_away(house: House) -> None:
    house.write("slow.py", "import time\ndef run(config, shared):\n    time.sleep(0.5)\n    return config['i']\n")
    sweep = house.start("sweep", "run", "slow.py", "--grid", "i=0,1,2,3,4", "-j", "1")
    until(lambda: any(r["done"] >= 1 for r in house.json("sweep", "ls")), "a task")
    away = house.folder / "away"
    house.home.rename(away)
    ended = finish(sweep)
    assert ended.code == 125 and set(moved(house)) <= set(ended.err.splitlines()), f"\n{ended}"
    until(lambda: not house.processes(), "the kernel's leaving")
    assert not house.home.exists(), "nothing of it was made anew"
    away.rename(house.home)
    assert "done stay so" in house.clove("sweep", "resume", "last").ok().err
    assert [t["result"] for t in house.json("sweep", "results")] == list(range(5))


def test_a_data_directory_that_is_removed(house: House) -> None:
    agent = house.start("run", "--", "sleep", "1000")
    until(lambda: house.json("ps"), "an agent")
    shutil.rmtree(house.home)
    ended = finish(agent)
    assert ended.code == 125 and set(moved(house)) <= set(ended.err.splitlines()), f"\n{ended}"
    until(lambda: not house.processes(), "the kernel's leaving")
    assert house.json("ps", "-a") == []
