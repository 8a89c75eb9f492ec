"""Streams that are closed or full, variables that are missing, limits that are low, rights that are missing, folders that are
odd: it works all the same, or says in a sentence what is wrong."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from deadline import until
from house import Ended, House, finish
from private_mounts import PrivateMounts

UNPRIVILEGED = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def refused(ended: Ended, *lines: str) -> None:
    """The command failed with exactly these words."""
    assert (ended.code, ended.err.splitlines()) == (125, [f"clove: error: {lines[0]}", *lines[1:]]), f"\n{ended}"


def test_streams_that_are_closed_or_full(house: House) -> None:
    full = "clove: error: can't write to standard output: no space left on device\n"
    cases = [
        ("$CLOVE ps >&-", 0, "", ""),
        ("$CLOVE ps -a --json >/dev/full", 125, "", full),
        ("$CLOVE run -- echo hi >/dev/full", 125, "", full),
        ("$CLOVE run -- echo hi 2>&-", 0, "hi\n", ""),
        ("$CLOVE run -- sh -c 'echo x >&2; echo hi' 2>/dev/full", 0, "hi\n", ""),
        ("$CLOVE run -- sh -c 'cat; echo hi' <&-", 0, "hi\n", ""),
        # A reader that leaves ends it quietly.
        ("$CLOVE run -- yes | head -1", 0, "y\n", ""),
        # The very first one starts the kernel with none of the three.
        ("$CLOVE stop && $CLOVE run -- echo hi <&- >&- 2>&- && $CLOVE kernel info | grep -c process", 0, "1\n", ""),
        ("trap '' PIPE HUP TERM; $CLOVE stop && $CLOVE run -- echo hi", 0, "hi\n", ""),
    ]
    for script, code, out, err in cases:
        ended = house.shell(script)
        assert (ended.code, ended.out, ended.err) == (code, out, err), f"{script}\n{ended}"
    # The kernel that a command with ignored signals has started heeds them all the same.
    os.kill(house.json("kernel", "info")["pid"], signal.SIGTERM)
    until(lambda: not house.processes(), "the kernel's end")


def test_a_kernel_in_the_foreground_under_nohup(house: House) -> None:
    kernel = house.start_any(["nohup", house.clove_bin, "serve"])
    until(lambda: house.clove("kernel", "info").code == 0, "the kernel")
    kernel.send_signal(signal.SIGHUP)
    assert house.clove("run", "--", "echo", "on").ok().out == "on\n"
    kernel.terminate()
    assert kernel.wait(20) == 0


def test_variables_that_are_missing(house: House) -> None:
    nowhere = [
        "there is no place for the data directory",
        "  none of CLOVE_HOME, XDG_DATA_HOME and HOME is set to an absolute path",
        "  try: set CLOVE_HOME to a folder of yours on a local disk",
    ]
    without = [{"HOME": ""}, {"HOME": "relative", "XDG_DATA_HOME": "relative/too"}]
    for env in without:
        refused(house.clove("ps", env={"CLOVE_HOME": "", **env}), *nowhere)
    # Everything else may be missing.
    bare = {"CLOVE_HOME": str(house.home), "CLOVE": house.clove_bin}
    child = house.start_any(
        [
            "/usr/bin/env",
            "-i",
            *(f"{k}={v}" for k, v in bare.items()),
            house.clove_bin,
            "run",
            "--",
            "sh",
            "-c",
            "echo ü; mktemp >/dev/null && pwd",
        ]
    )
    assert finish(child).ok().out == "ü\n/work\n"
    house.write("naïve.py", "def run(config, shared):\n    return config\n")
    ended = house.clove(
        "sweep",
        "run",
        "naïve.py",
        "--grid",
        "größe=ä,😀",
        "--task-name",
        "{größe}",
        env={"LC_ALL": "C", "LANG": "C", "TMPDIR": "/gone"},
    )
    assert re.search("1  😀 +done", ended.ok().out), f"\n{ended}"


def test_data_directories_that_cannot_be_one(house: House) -> None:
    """Nothing is changed about a folder that is somebody else's: CLOVE_HOME=/etc would close it to everybody."""
    etc = house.folder / "etc"
    etc.mkdir(mode=0o755)
    (etc / "passwd").touch()
    sticky = house.folder / "tmp"
    sticky.mkdir()
    sticky.chmod(0o1777)
    theirs = house.folder / "theirs"
    theirs.mkdir(mode=0o755)
    os.chown(theirs, 65534, 65534)
    elsewhere = "  try: set CLOVE_HOME to a folder of yours on a local disk"

    def own(path: Path) -> str:
        return f"  try: name a folder of its own, for example CLOVE_HOME={path}/clove"

    cases = [
        (etc, "  it holds other things already (passwd)", own(etc)),
        (sticky, "  it is a folder that everybody may write to", own(sticky)),
        (theirs, "  it belongs to uid 65534, and this is root", elsewhere),
        (Path("/dev/null"), "  there is something of that name, and it isn't a folder", elsewhere),
        (Path("/proc/clove"), "  it can't be made: no such file or directory", elsewhere),
    ]
    for path, why, hint in cases:
        refused(
            house.clove("run", "--", "true", env={"CLOVE_HOME": str(path)}),
            f"the data directory {path} (from CLOVE_HOME) can't be used",
            why,
            hint,
        )
    assert [p.stat().st_mode & 0o7777 for p in (etc, sticky, theirs)] == [0o755, 0o1777, 0o755]
    assert os.listdir(etc) == ["passwd"] and os.listdir(sticky) == os.listdir(theirs) == []
    home = {"HOME": str(house.work), "CLOVE_HOME": f"{house.work}/."}
    assert "it would fill that whole folder" in house.clove("ps", env=home).err
    # Nobody's umask gets in the way.
    for mask in ("777", "000"):
        ended = house.shell(
            f"umask {mask}; CLOVE_HOME={house.folder}/mask-{mask} $CLOVE run -- echo hi; CLOVE_HOME={house.folder}/mask-{mask} $CLOVE stop"
        )
        assert ended.ok().out == "hi\n"
        assert (house.folder / f"mask-{mask}").stat().st_mode & 0o777 == 0o700


def test_a_data_directory_that_cannot_be_written(house: House) -> None:
    """root ignores modes, so: a read-only mount, and an immutable folder."""
    house.home.mkdir(mode=0o700)
    with PrivateMounts(house, f"mount --bind {house.home} {house.home}; mount -o remount,bind,ro {house.home}") as ns:
        for command in (["ps"], ["serve"]):
            ended = ns.clove(*command)
            assert ended.code == 125 and f"{house.home}/lock can't be opened: Read-only file system\n" in ended.err, (
                f"\n{ended}"
            )
            assert (
                ended.last_words
                == f"  try: mount the file system of {house.home} writable, or set CLOVE_HOME to a folder elsewhere"
            )
        ns.sh(f"umount {house.home}")
    if house.any(["chattr", "+i", str(house.home)]).code == 0:
        try:
            ended = house.clove("ps")
            assert ended.code == 125 and "lock can't be opened: Operation not permitted" in ended.err, f"\n{ended}"
            assert "chattr -i" in ended.last_words
        finally:
            house.any(["chattr", "-i", str(house.home)]).ok()
    house.clove("ps").ok()


def test_who_isnt_root(house: House) -> None:
    theirs = house.folder / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    shown = house.folder / "bin"
    shown.mkdir()
    shutil.copy(house.clove_bin, shown / "clove")
    env = {"CLOVE_HOME": str(theirs / "h")}
    why = "it has to run as root, and this is uid 65534"
    hint = "  try: run the command with sudo; the agents themselves get unprivileged ids of their own"
    for command in (["run", "--", "true"], ["ps"], ["sweep", "ls"]):
        refused(
            house.any([*UNPRIVILEGED, str(shown / "clove"), *command], env=env), f"the kernel didn't start: {why}", hint
        )
    refused(house.any([*UNPRIVILEGED, str(shown / "clove"), "serve"], env=env), f"the kernel can't serve: {why}", hint)
    # Another user's data directory, and his kernel.
    house.clove("ps").ok()
    house.folder.chmod(0o755)
    ended = house.any([*UNPRIVILEGED, str(shown / "clove"), "ps"])
    assert ended.code == 125 and f"the data directory {house.home} (from CLOVE_HOME) can't be used" in ended.err


def test_a_root_without_the_rights(house: House) -> None:
    """As in a container, or under a service manager's restrictions."""
    for dropped in (["sys_admin"], ["setuid"], ["mknod", "sys_ptrace"]):
        names = [f"CAP_{d.upper()}" for d in dropped]
        adds = " ".join(f"--cap-add={d.upper()}" for d in dropped)
        minus = ",".join(f"-{d}" for d in dropped)
        refused(
            house.any(
                ["setpriv", f"--inh-caps={minus}", f"--bounding-set={minus}", house.clove_bin, "run", "--", "true"]
            ),
            f"the kernel didn't start: this root lacks the right{'s' if len(names) > 1 else ''} {', '.join(names)}",
            f"  try: start the container with --privileged (or {adds}), or the service without that restriction",
        )


def test_limits_of_the_shell(house: House) -> None:
    """Those that the kernel can't live with are named; the others are lifted, as agents have limits of their own."""
    for limit, words, hint in (
        ("-n 100", "only 100 files may be open at a time, and it needs 256 at least", "ulimit -n 65536"),
        ("-f 10", "a file may have 10 KiB at most, and it needs 64 MiB", "ulimit -f unlimited"),
    ):
        # Without the right to raise them again.
        lowered = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]
        ended = house.any([*lowered, "bash", "-c", f"ulimit {limit}; exec {house.clove_bin} ps"])
        assert ended.code == 125 and f"clove: error: the kernel didn't start: {words}\n" in ended.err, f"\n{ended}"
        assert hint in ended.last_words
    assert house.shell("ulimit -n 300; ulimit -v 2000000; ulimit -S -t 60; $CLOVE run -- echo hi").ok().out == "hi\n"
    limits = Path(f"/proc/{house.json('kernel', 'info')['pid']}/limits").read_text()
    assert re.search(r"Max cpu time +unlimited", limits), limits


def test_ground_that_is_missing(house: House) -> None:
    """/proc, /dev and /run as a container may have them, and cgroups that it has not."""
    house.home.mkdir(mode=0o700)
    cases: List[Tuple[str, Optional[List[str]]]] = [
        (
            "umount -l /proc",
            ["the kernel can't be started here: no /proc is mounted", "  try: mount -t proc proc /proc"],
        ),
        (
            "mount -t tmpfs none /dev",
            ["the kernel can't be started here: there is no /dev/null", "  try: mknod -m 666 /dev/null c 1 3"],
        ),
        ("mount -t proc -o hidepid=2 proc /proc", None),
    ]
    for script, words in cases:
        with PrivateMounts(house, script) as ns:
            ended = ns.clove("run", "--", "echo", "hi")
            if words is None:
                assert ended.ok().out == "hi\n"
            else:
                refused(ended, *words)
    with PrivateMounts(house, "mount -t tmpfs none /sys/fs/cgroup") as ns:
        ended = ns.clove("run", "--", "echo", "hi")
        assert ended.code == 125 and "this host can't enforce the limit of memory, pids (E0503)" in ended.err, (
            f"\n{ended}"
        )
        assert "clove doctor" in ended.last_words and "--allow-degraded" in ns.clove("run", "--help").out
        assert ns.clove("run", "--allow-degraded", "--", "echo", "hi").ok().out == "hi\n"


def test_sweep_files_that_are_no_files(house: House) -> None:
    work = house.work
    os.mkfifo(work / "pipe.toml")
    (work / "zero.toml").symlink_to("/dev/zero")
    (work / "loop.toml").symlink_to("loop.toml")
    (work / "folder.toml").mkdir()
    with open(work / "huge.toml", "wb") as f:
        f.truncate(1 << 30)
    (work / "binary.toml").write_bytes(bytes(range(256)) * 100)
    house.write("s.py", "def run(config, shared):\n    return 1\n")
    ten = "\n".join(f"k{i} = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]" for i in range(9))
    house.write("many.toml", f'script = "s.py"\n[grid]\n{ten}\n')
    cases = {
        "pipe": ["it is a pipe, and for 5 seconds nobody has opened it to write into it"],
        "zero": ["it is larger than 64 MiB"],
        "loop": ["it can't be read: too many levels of symbolic links"],
        "folder": ["it is a folder"],
        "huge": ["it is larger than 64 MiB"],
        "binary": ["it is a binary file, not text"],
        "many": [":2:2: the sweep has 1000000000 tasks", "expected: at most 1000000"],
        "none": ["there is no such file"],
    }
    asked: Dict[str, subprocess.Popen[str]] = {n: house.start("sweep", "run", f"{n}.toml") for n in cases}
    for name, child in asked.items():
        ended = finish(child, patience=30)
        assert ended.code == 125 and ended.err.startswith(f"clove: error: {name}.toml:"), f"\n{ended}"
        assert all(w in ended.err for w in cases[name]), f"{cases[name]}\n{ended}"
    # One that somebody does write into is a file like any other.
    ended = house.any(
        [
            "bash",
            "-c",
            f"{house.clove_bin} sweep run --dry-run <(sleep 0.3; printf 'script = \"{work}/s.py\"\\ngrid = {{ a = [nan] }}\\n')",
        ]
    )
    assert ended.ok().json()["tasks"][0]["config"] == {"a": {"$float": "nan"}}, f"\n{ended}"
    ended = house.clove("sweep", "run", "s.py", "--grid", "a=1", "--grid", "a=2")
    assert (ended.code, ended.err) == (
        2,
        "clove: error: --grid a is given twice\n  try: write all its values at once: --grid a=A,B,...\n",
    )
