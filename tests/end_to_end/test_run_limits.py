"""Each limit that is exceeded is named as the cause, and without the limit the same program is well."""

from __future__ import annotations

import time

from deadline import until
from house import Ended, House


def cause(house: House, *args: str) -> tuple[str, Ended]:
    ended = house.clove("run", "--json", *args)
    return ended.json()["cause"], ended


def test_memory(house: House) -> None:
    eat = ["--", "python3", "-c", "x = bytearray(150 << 20); print(len(x))"]
    word, ended = cause(house, "-m", "100m", *eat)
    assert (word, ended.code) == ("oom", 137) and "100 MiB" in ended.json()["message"], f"\n{ended}"
    assert "--memory 200m" in str(ended)
    assert cause(house, "-m", "300m", *eat)[0] == "exit"


def test_memory_of_a_child_counts_and_the_whole_agent_ends(house: House) -> None:
    script = "sleep 1000 & python3 -c 'x = bytearray(150 << 20)'; echo survived; sleep 1000"
    ended = house.clove("run", "-m", "100m", "--", "sh", "-c", script)
    assert ended.code == 137 and ended.last_words.startswith("clove: oom: ") and "survived" not in ended.out, (
        f"\n{ended}"
    )


def test_files_in_its_folders_count_as_memory_or_disk(house: House) -> None:
    fill = ["--", "sh", "-c", "dd if=/dev/zero of=/work/x bs=1M count=200 2>/dev/null || exit 9"]
    word, ended = cause(house, "--disk", "20m", *fill)
    assert (word, ended.code) == ("disk", 9) and "20 MiB" in ended.json()["message"], f"\n{ended}"
    for place in ("/tmp", "/dev/shm"):
        word, _ = cause(
            house,
            "--disk",
            "20m",
            "--",
            "sh",
            "-c",
            f"dd if=/dev/zero of={place}/x bs=1M count=200 2>/dev/null || exit 9",
        )
        assert word == "disk", place
    assert cause(house, "--disk", "400m", *fill)[0] == "exit"


def test_pids(house: House) -> None:
    forks = [
        "--",
        "python3",
        "-c",
        "import os, time\nfor i in range(40):\n  if os.fork() == 0:\n    time.sleep(30); os._exit(0)\nprint('forked')",
    ]
    word, ended = cause(house, "--pids-limit", "20", *forks)
    assert word == "pids" and "20" in ended.json()["message"], f"\n{ended}"
    assert cause(house, "--pids-limit", "100", *forks)[0] == "exit"


def test_a_fork_bomb_ends_alone(house: House) -> None:
    house.clove("run", "-d", "--name", "bystander", "--", "sleep", "1000").ok()
    ended = house.clove("run", "--pids", "50", "--timeout", "3s", "--", "sh", "-c", "f() { f | f & }; f; sleep 1000")
    assert ended.code in (124, 2, 254) and ended.last_words.startswith(("clove: timeout: ", "clove: pids: ")), (
        f"\n{ended}"
    )
    assert house.running("bystander")


def test_timeout(house: House) -> None:
    word, ended = cause(house, "--timeout", "300ms", "--", "sh", "-c", "trap '' TERM INT; while :; do sleep 1; done")
    assert (word, ended.code) == ("timeout", 124), f"\n{ended}"
    assert cause(house, "--timeout", "30s", "--", "sh", "-c", "exit 0")[0] == "exit"


def test_open_files(house: House) -> None:
    opens = ["--", "python3", "-c", "x = [open('/dev/null') for _ in range(100)]; print(len(x))"]
    ended = house.clove("run", "--nofile", "32", *opens)
    assert ended.code == 1 and "Too many open files" in ended.err and "--nofile" in ended.err, f"\n{ended}"
    assert house.clove("run", "--nofile", "256", *opens).out == "100\n"


def test_output_beyond_its_limit_is_dropped_and_said(house: House) -> None:
    ended = house.clove(
        "run", "-d", "--name", "loud", "--output-limit", "1m", "--", "sh", "-c", "seq 1 1000000; echo end >&2"
    )
    assert house.clove("wait", "loud").code == 0, f"\n{ended}"
    logs = house.clove("logs", "loud")
    assert len(logs.out) <= 1 << 20 and "dropped" in logs.err, logs.err
    assert house.json("inspect", "loud")["certificate"]["output_dropped_bytes"] > 5_000_000
    assert "6.6 MiB" in house.clove("inspect", "loud").out


def test_an_attached_command_shows_output_beyond_its_limit_too(house: House) -> None:
    numbers = "".join(f"{n}\n" for n in range(1, 1_000_001))
    script = "seq 1 1000000 & seq 1 1000000 >&2; wait"
    whole = house.clove("run", "--name", "whole", "--output-limit", "1m", "--", "sh", "-c", script)
    assert whole.code == 0 and whole.out == numbers and whole.err == numbers, (len(whole.out), whole.err[-500:])
    # Kept is no more than before.
    late = house.clove("logs", "whole")
    assert len(late.out) + len(late.err) < 1.1 * (1 << 20) and "dropped" in late.err
    terminal = house.clove("run", "-t", "--output-limit", "64k", "--", "seq", "1", "100000")
    assert terminal.out.replace("\r", "") == "".join(f"{n}\n" for n in range(1, 100_001))


def test_an_attached_agent_waits_for_a_slow_reader(house: House) -> None:
    script = "seq 1 1000000; echo done >&2"
    child = house.start("run", "--name", "slow", "--output-limit", "64k", "--", "sh", "-c", script)
    assert child.stdout and child.stderr
    assert child.stdout.readline() == "1\n"
    time.sleep(1.0)
    assert house.running("slow") and house.clove("run", "--", "echo", "other").out == "other\n"
    rest = child.stdout.read()
    assert rest == "".join(f"{n}\n" for n in range(2, 1_000_001)), (len(rest), rest[-100:])
    assert (child.stderr.read(), child.wait(60)) == ("done\n", 0)


def test_an_agent_that_waits_for_a_reader_ends_as_any_other(house: House) -> None:
    flood = ("--output-limit", "64k", "--", "cat", "/dev/zero")
    child = house.start("run", "--name", "killed", *flood)
    house.running("killed")
    time.sleep(0.5)
    house.clove("kill", "killed").ok()
    child.communicate(timeout=30)
    assert child.returncode == 137
    child = house.start("run", "--name", "left", *flood)
    house.running("left")
    child.kill()
    until(lambda: house.agent("left").get("state") == "ended", "its end")
    child.communicate(timeout=30)


def test_cpu_quota(house: House) -> None:
    burn = (
        "import time, os\nend = time.monotonic() + 1.0\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
    )
    used = float(house.clove("run", "--cpus", "0.2", "--", "python3", "-c", burn).ok().out)
    assert used < 0.5, used
    # The control, where another process may well take one of the CPUs.
    free = max(float(house.clove("run", "--", "python3", "-c", burn).ok().out) for _ in range(3))
    assert free > used, (free, used)


def test_defaults_are_shown_and_every_limit_can_be_read_back(house: House) -> None:
    house.clove("run", "-d", "--name", "plain", "--", "sleep", "1000").ok()
    limits = house.json("inspect", "plain")["limits"]
    assert (
        limits["pids"] == 512
        and limits["memory_bytes"] > 0
        and limits["disk_bytes"] > 0
        and limits["nofile"] > 0
        and limits["output_bytes"] > 0
    )
    house.clove(
        "run", "-d", "--name", "set", "-m", "64m", "--cpus", "0.5", "--cpu-weight", "7", "--pids", "9", "--disk", "5m", "--nofile", "77",
        "--timeout", "1h", "--output-limit", "1m", "--", "sleep", "1000",
    ).ok()  # fmt: skip
    assert house.json("inspect", "set")["limits"] == {
        "memory_bytes": 64 << 20, "memory_reserve_bytes": 64 << 20, "cpu_milli": 500, "cpu_weight": 7, "pids": 9, "disk_bytes": 5 << 20,
        "nofile": 77, "wall_ms": 3_600_000, "output_bytes": 1 << 20,
    }  # fmt: skip
