"""The disk is full, fails, or turns read-only: a sentence, no hang, and nothing that was acknowledged is lost."""

from __future__ import annotations

import json
import subprocess

import pytest
from bad_host import BadHost
from deadline import until
from house import House, finish
from private_mounts import PrivateMounts, small_home

SLOW = """
    import time
    def run(config, shared):
        time.sleep(config["s"])
        return config["i"]
"""
KEEPS = """
    import os, time
    def run(config, shared):
        with open(os.environ["CLOVE_CHECKPOINT"] + "/state", "wb") as f: f.write(b"x" * (1 << 20))
        time.sleep(0.3)
        with open(os.environ["CLOVE_OUT"] + "/big", "wb") as f: f.write(b"x" * (1 << 20))
        print("y" * 100_000, flush=True)
        return config["i"]
"""


def fill(disk: PrivateMounts) -> None:
    """To the last page."""
    disk.any("sh", "-c", f"cat /dev/zero > {disk.house.home}/../h/fill 2>/dev/null || true")


def configs(house: House, name: str, n: int, pad: int = 0, **config: object) -> str:
    lines = [json.dumps({"i": i, "pad": "x" * pad, **config}) for i in range(n)]
    (house.work / name).write_text("\n".join(lines) + "\n")
    return name


def test_a_full_disk_in_the_middle_of_a_sweep_and_room_again(house: House) -> None:
    house.write("slow.py", SLOW)
    configs(house, "long.jsonl", 6, s=0.4)
    # One record larger than what is left of the journal's segment, which is reserved in advance.
    configs(house, "large.jsonl", 130, 100_000, s=0)
    with small_home(house, 64) as disk:
        sweep = disk.start("sweep", "run", "slow.py", "--list", "long.jsonl", "-j", "1")
        until(lambda: disk.shown().get("done", 0) >= 2, "two tasks")
        fill(disk)
        refused = [disk.clove("sweep", "run", "slow.py", "--list", "large.jsonl", "-d") for _ in range(2)]
        refused.append(finish(sweep))
        for ended in refused:
            assert ended.code == 125 and "journal" in ended.err and "No space left on device (E0701)" in ended.err
            assert "has room, then run the command again; `clove sweep resume` goes on" in ended.last_words, (
                f"\n{ended}"
            )
        # Each command starts a kernel that has room enough for what it has to note, or says that it has none.
        shown = disk.shown()
        done = shown["done"]
        assert shown["state"] == "interrupted" and 2 <= done < 6, shown
        disk.sh(f"rm {house.home}/fill")
        assert "done stay so" in disk.clove("sweep", "resume", "last").ok().err
        results = disk.clove("sweep", "results", "--json").json()
        assert [t["result"] for t in results] == list(range(6))
        assert disk.clove("kernel", "check").ok().out.endswith("\nequal\n")


def test_artefacts_output_and_index_find_no_room_and_the_kernel_lives_on(house: House) -> None:
    house.write("keeps.py", KEEPS)
    house.write("cold.sh", '#!/bin/sh\nhead -c 1000000 /dev/zero > "$CLOVE_OUT/big"\necho 5 > "$CLOVE_RESULT"\n', 0o755)
    configs(house, "three.jsonl", 3)
    with small_home(house, 64) as disk:
        disk.clove("run", "--", "true").ok()
        fill(disk)
        # A program's own words reach it, although they can't be kept.
        assert disk.clove("run", "--", "sh", "-c", "seq 20000 | tail -1").ok().out == "20000\n"
        for program in ("keeps.py", "./cold.sh"):
            ended = disk.clove("sweep", "run", program, "--list", "three.jsonl")
            assert ended.code == 1, f"\n{ended}"
            why = "what it wrote to $CLOVE_OUT can't be kept: "
            assert ended.err.count(why) == 3 and ended.err.count("No space left on device") >= 3, f"\n{ended}"
            assert "(os error" not in ended.err and "exit code" not in ended.err, f"\n{ended}"
        disk.sh(f"rm {house.home}/fill")
        for run in ("r1", "r2"):
            disk.clove("sweep", "resume", run, "--failed").ok()
        disk.clove("sweep", "artifacts", "r1", str(house.work / "kept")).ok()
        assert sorted(p.stat().st_size for p in (house.work / "kept").rglob("big")) == [1 << 20] * 3
        # The index has caught up: SQLite's own view of it.
        until(lambda: "make room" not in disk.sh(f"tail -1 {house.home}/kernel.log").out, "the index's recovery")
        assert disk.clove("kernel", "check").ok().out.endswith("\nequal\n")


def test_no_room_to_start(house: House) -> None:
    with small_home(house, 8) as disk:
        for _ in range(2):
            ended = disk.clove("ps")
            assert ended.code == 125, f"\n{ended}"
            assert ended.err.count("No space left on device") == 1 and "os error" not in ended.err, f"\n{ended}"
            assert f"try: make room on the disk of {house.home}" in ended.last_words, f"\n{ended}"
        disk.sh(f"mount -o remount,size=64m {house.home}")
        disk.clove("ps").ok()


def test_a_disk_that_fails(house: House) -> None:
    house.write("slow.py", SLOW)
    configs(house, "long.jsonl", 6, s=0.4)
    host = BadHost(house)
    sweep = house.start("sweep", "run", "slow.py", "--list", "long.jsonl", "-j", "1")
    until(lambda: any(r["done"] >= 2 for r in house.json("sweep", "ls")), "two tasks")
    host.break_disk()
    ended = finish(sweep)
    assert ended.code == 125 and "Input/output error (E0701)" in ended.err, f"\n{ended}"
    assert "#" not in ended.err.split("2 of 6 done")[-1], f"shown as done without the disk\n{ended}"
    assert host.ended() == 1
    host.break_disk(False)
    until(lambda: house.shown()["state"] == "interrupted", "a new kernel's view")
    house.clove("sweep", "resume", "last").ok()
    assert [t["result"] for t in house.json("sweep", "results")] == list(range(6))


def test_a_file_system_that_turns_read_only(house: House) -> None:
    """As ext4 does when it finds an error in itself."""
    image = house.folder / "disk.img"
    house.home.mkdir()
    with open(image, "wb") as f:
        f.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, capture_output=True)
    try:
        disk = PrivateMounts(
            house,
            f"mount -o loop,errors=remount-ro {image} {house.home}\nmkdir {house.folder}/sys\n"
            f"mount -t sysfs none {house.folder}/sys\n"
            f"test -w {house.folder}/sys/fs/ext4/$(basename $(findmnt -no SOURCE {house.home}))/trigger_fs_error",
        )
    except AssertionError:
        pytest.skip("no ext4 on a loop device is to be had")
    house.write("slow.py", SLOW)
    configs(house, "long.jsonl", 6, s=0.4)
    with disk:
        sweep = disk.start("sweep", "run", "slow.py", "--list", "long.jsonl", "-j", "1")
        until(lambda: disk.shown().get("done", 0) >= 1, "a task")
        disk.sh(f"echo 1 > {house.folder}/sys/fs/ext4/$(basename $(findmnt -no SOURCE {house.home}))/trigger_fs_error")
        ended = finish(sweep)
        assert ended.code == 125 and "(E0701)" in ended.err, f"\n{ended}"
        until(lambda: not house.processes(), "the kernel's leaving")
        ended = disk.clove("ps")
        assert ended.code == 125 and "Read-only file system" in ended.err, f"\n{ended}"
        assert f"try: mount the file system of {house.home} writable" in ended.last_words, f"\n{ended}"
        disk.sh(f"umount {house.home} && e2fsck -fy {image} >/dev/null 2>&1; mount -o loop {image} {house.home}")
        disk.clove("sweep", "resume", "last").ok()
        assert [t["result"] for t in disk.clove("sweep", "results", "--json").json()] == list(range(6))
