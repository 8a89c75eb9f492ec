"""Detached agents: `-d`, `ps`, `logs -f`, `wait`, `inspect`, `kill`, and names."""

from __future__ import annotations

import os
import subprocess

from deadline import until
from house import House, finish


def test_a_detached_agent_is_watched_and_waited_for(house: House) -> None:
    house.write("gate/.keep", "")
    ended = house.clove(
        "run", "-d", "--name", "counter", "-v", f"{house.work}/gate:/gate", "--",
        "sh", "-c", "echo one; echo two >&2; until [ -e /gate/open ]; do sleep 0.05; done; echo three; exit 7",
    )  # fmt: skip
    agent = ended.ok().out.strip()
    assert agent.startswith("a") and house.running("counter")["id"] == agent
    follower = house.start("logs", "-f", "counter")
    waiter = house.start("wait", "counter")
    assert follower.stdout
    assert follower.stdout.readline() == "one\n"
    assert waiter.poll() is None
    house.write("gate/open", "")
    followed = finish(follower)
    assert followed.out == "three\n" and followed.err == "two\n" and followed.code == 0, f"\n{followed}"
    assert finish(waiter).code == 7
    assert house.clove("wait", agent).code == 7
    assert house.clove("logs", "counter", "--stream", "out").out == "one\nthree\n"
    assert house.clove("logs", "counter", "--stream", "err").out == "two\n"
    certificate = house.json("inspect", "counter")["certificate"]
    assert (certificate["cause"], certificate["exit_code"]) == ("exit", 7)
    assert "three" in certificate["tail"]


def test_kill_says_who_killed(house: House) -> None:
    house.clove("run", "-d", "--name", "victim", "--", "sleep", "1000").ok()
    house.clove("run", "-d", "--name", "bystander", "--", "sleep", "1000").ok()
    pid = house.running("victim")["pid"]
    other = house.running("bystander")["pid"]
    killer = house.start("kill", "victim")
    killed = finish(killer).ok()
    assert "victim" in killed.out + killed.err
    assert house.clove("wait", "victim").code == 137
    certificate = house.json("inspect", "victim")["certificate"]
    assert certificate["cause"] == "killed"
    by = certificate["killed_by"]
    assert (by["kind"], by["uid"], by["pid"], by["command"]) == ("operator", os.getuid(), killer.pid, "clove"), by
    assert not os.path.exists(f"/proc/{pid}") and house.running("bystander")["pid"] == other
    # A kill that didn't come through CloveOS is told apart.
    os.kill(other, 9)
    assert house.clove("wait", "bystander").code == 137
    by = house.json("inspect", "bystander")["certificate"]
    assert (by["cause"], by["killed_by"]["kind"]) == ("killed", "outside"), by


def test_an_attached_agent_that_is_killed_says_so(house: House) -> None:
    child = house.start("run", "--name", "hit", "--", "sleep", "1000")
    house.running("hit")
    killer = house.start("kill", "hit")
    finish(killer).ok()
    ended = finish(child)
    assert ended.code == 137 and ended.last_words.startswith("clove: killed: "), f"\n{ended}"
    assert str(killer.pid) in ended.last_words and "oom" not in ended.err, f"\n{ended}"


def test_a_signal_goes_to_the_program_only(house: House) -> None:
    house.clove(
        "run",
        "-d",
        "--name",
        "trap",
        "--",
        "sh",
        "-c",
        'trap "echo usr1" USR1; trap "exit 3" TERM; echo set; while :; do sleep 0.05; done',
    ).ok()
    until(lambda: "set" in house.clove("logs", "trap").out, "the traps being set")
    house.clove("kill", "-s", "USR1", "trap").ok()
    until(lambda: "usr1" in house.clove("logs", "trap").out, "the handler's word")
    house.clove("kill", "--signal", "TERM", "trap").ok()
    assert house.clove("wait", "trap").code == 3


def test_kill_ends_the_whole_tree_at_once(house: House) -> None:
    house.clove(
        "run",
        "-d",
        "--name",
        "tree",
        "--",
        "sh",
        "-c",
        "for i in 1 2 3 4 5; do setsid sh -c 'sleep 1000 & sleep 1000' & done; wait",
    ).ok()
    until(lambda: len(house.agent_pids()) >= 12, "the tree to have grown")
    house.clove("kill", "tree").ok()
    assert house.clove("wait", "tree").code == 137
    assert house.agent_pids() == []


def test_names_are_unique_among_the_living_and_free_afterwards(house: House) -> None:
    house.clove("run", "-d", "--name", "one", "--", "sleep", "1000").ok()
    again = house.clove("run", "--name", "one", "--", "true")
    assert again.code == 125 and "one" in again.err and "clove kill" in again.err, f"\n{again}"
    house.clove("kill", "one").ok()
    house.clove("wait", "one")
    assert house.clove("run", "--name", "one", "--", "true").code == 0


def test_unknown_names_are_answered_in_words(house: House) -> None:
    house.clove("run", "--", "true").ok()
    for args in (["logs", "nobody"], ["inspect", "nobody"], ["kill", "nobody"], ["wait", "nobody"]):
        ended = house.clove(*args)
        assert ended.code == 125 and ended.out == "" and "nobody" in ended.err and "clove ps" in ended.err, (
            f"{args}\n{ended}"
        )


def test_lists_are_lists_of_objects_with_an_id(house: House) -> None:
    house.clove("run", "-d", "--name", "here", "--", "sleep", "1000").ok()
    house.write("t.py", "def run(config, shared):\n    return 1\n")
    house.clove("sweep", "run", "t.py", "--grid", "a=1,2").ok()
    for args in (
        ["ps"],
        ["ps", "-a"],
        ["sweep", "ls"],
        ["sweep", "results"],
        ["doctor"],
        ["syscalls"],
        ["explain"],
        ["kill", "here"],
    ):
        listed = house.json(*args)
        assert isinstance(listed, list) and listed and all(o["id"] for o in listed), (args, listed)
    for args in (
        ["inspect", "here"],
        ["sweep", "show"],
        ["sweep", "inspect", "last", "0"],
        ["kernel", "info"],
        ["version"],
    ):
        assert house.json(*args)["id"], args


def test_rm_forgets(house: House) -> None:
    house.clove("run", "--rm", "--name", "gone", "--", "true").ok()
    assert house.agent("gone") == {}
    house.clove("run", "--name", "kept", "--", "true").ok()
    assert house.agent("kept")["ended"] == "exit 0"


def test_quiet_ps_feeds_kill(house: House) -> None:
    for _ in range(3):
        house.clove("run", "-d", "--", "sleep", "1000").ok()
    ended = house.shell('"$CLOVE" kill $("$CLOVE" ps -q) && "$CLOVE" ps -q')
    until(lambda: house.clove("ps", "-q").out == "", f"all killed\n{ended}")


def test_stop_is_refused_while_agents_run(house: House) -> None:
    house.clove("run", "-d", "--name", "busy", "--", "sleep", "1000").ok()
    refused = house.clove("stop")
    assert refused.code != 0 and "--force" in refused.err and house.running("busy"), f"\n{refused}"
    house.clove("kill", "busy").ok()
    house.clove("wait", "busy")
    house.clove("stop").ok()
    until(lambda: not house.kernel_pids(), "the end of the kernel")


def test_waiting_with_a_limit(house: House) -> None:
    house.clove("run", "-d", "--name", "long", "--", "sleep", "1000").ok()
    ended = house.clove("wait", "--timeout", "200ms", "long")
    assert ended.code == 125 and house.running("long"), f"\n{ended}"


def test_two_followers_see_the_same(house: House) -> None:
    house.clove(
        "run",
        "-d",
        "--name",
        "talker",
        "--",
        "sh",
        "-c",
        "for i in $(seq 200); do echo line $i; done; sleep 0.3; echo end",
    ).ok()
    followers = [house.start("logs", "-f", "talker", stderr=subprocess.STDOUT) for _ in range(2)]
    texts = [finish(f).out for f in followers]
    assert texts[0] == texts[1] and texts[0].endswith("end\n") and texts[0].count("\n") == 201, texts[0][-200:]
