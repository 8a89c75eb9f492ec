"""What agents try on the kernel's own doings: files that it copies, names that it is given, limits that all share.

Each attack has a control: the same thing works where it is meant to, or on whoever does it the simple way.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Iterator, List, NamedTuple

import pytest
from deadline import until
from house import House, alive

PLANTER = Path(__file__).parent / "hostile" / "planter.py"
WORD = "only for the operator's eyes"


class Prey(NamedTuple):
    """A file that is in no mount, and its folder."""

    secret: Path
    folder: Path


@pytest.fixture
def prey(house: House) -> Iterator[Prey]:
    folder = house.folder / "private"
    folder.mkdir()
    (folder / "secret").write_text(WORD)
    shutil.copy(PLANTER, house.work)
    return Prey(folder / "secret", folder)


def kept(house: House) -> List[Path]:
    """All that the kernel has taken from agents' folders."""
    found = []
    # Unlike rglob, this minds no folder that goes away: copies in the making do.
    for folder, folders, names in os.walk(house.data_dir / "runs"):
        linked = [f for f in folders if Path(folder, f).is_symlink()]
        found += [Path(folder, name) for name in names + linked]
    return found


def leaks(house: House) -> List[Path]:
    return [p for p in kept(house) if p.is_symlink() or not p.is_file() or WORD.encode() in p.read_bytes()]


# --- what lies where the kernel reads


@pytest.mark.parametrize("result", ["link", "fifo", "folder"])
def test_links_and_fifos_where_the_kernel_reads(house: House, prey: Prey, result: str) -> None:
    house.write("attack.py", f"""
        import os
        from planter import plant
        plant({str(prey.secret)!r}, {str(prey.folder)!r}, os.environ["CLOVE_OUT"], {result!r})
        plant({str(prey.secret)!r}, {str(prey.folder)!r}, os.environ["CLOVE_CHECKPOINT"])
    """)  # fmt: skip
    house.write("trial.sh", "#!/bin/sh\nexec python3 attack.py\n", 0o755)
    house.clove("sweep", "run", "./trial.sh", "--grid", "x=1")
    task = house.results()[0]
    assert task["state"] != "done" and "CLOVE_RESULT" not in str(task.get("result")), task
    assert {p.name for p in kept(house)} == {"honest"}, kept(house)
    assert leaks(house) == []
    # The control: whoever follows gets there.
    (house.work / "link").symlink_to(prey.secret)
    assert (house.work / "link").read_text() == WORD


def test_files_that_change_into_links_while_they_are_copied(house: House, prey: Prey) -> None:
    house.write("race.py", f"""
        import os, time
        from planter import swap
        SECRET, FOLDER = {str(prey.secret)!r}, {str(prey.folder)!r}

        def run(config, shared):
            places = [os.environ["CLOVE_OUT"], os.environ["CLOVE_CHECKPOINT"]]
            for place in places:
                for n in range(100):
                    open(f"{{place}}/{{n}}", "w").write("x")
                if os.fork() == 0:
                    swap(SECRET, FOLDER, place)
            while not all(os.path.exists(f"{{p}}/swapping") for p in places):
                time.sleep(0.001)
            time.sleep(0.3)
            return 1
    """)  # fmt: skip
    house.clove("sweep", "run", "race.py", "--grid", "x=1,2,3,4,5,6")
    assert [t["state"] for t in house.results().values()] == ["done"] * 6
    copies = kept(house)
    assert len([p for p in copies if p.name == "0"]) >= 6, "nothing was copied, so this shows nothing"
    assert leaks(house) == []
    # The control: a copier that looks first and opens then is caught at once.
    place = house.folder / "race"
    place.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", f"from planter import swap; swap({str(prey.secret)!r}, {str(prey.folder)!r}, {str(place)!r})"],
        cwd=house.work,
    )  # fmt: skip
    try:

        def caught() -> bool:
            file = place / "file0"
            try:
                return not file.is_symlink() and file.read_text() == WORD
            except OSError:
                return False

        until(caught, "a naive copier to be caught")
    finally:
        child.kill()
        child.wait()


def test_a_hole_of_a_terabyte_fills_no_disk(house: House) -> None:
    house.write("hole.py", """
        import os

        def run(config, shared):
            with open(os.environ["CLOVE_OUT"] + "/hole", "wb") as f:
                f.truncate(1 << 40)
                f.seek(1 << 39)
                f.write(b"mid")
            return 1
    """)  # fmt: skip
    house.clove("sweep", "run", "hole.py", "--grid", "x=1").ok()
    house.clove("sweep", "artifacts", "last", str(house.folder / "copied")).ok()
    (hole,) = [p for p in kept(house) if p.name == "hole"]
    for place in (hole, house.folder / "copied/0/hole"):
        stat = place.stat()
        assert stat.st_size == 1 << 40 and stat.st_blocks < 1000, place
        with open(place, "rb") as f:
            f.seek(1 << 39)
            assert f.read(3) == b"mid", place


def test_many_folders_take_no_others_watch(house: House) -> None:
    """The kernel watches what agents keep; how many folders it can watch is limited for all together."""
    house.write("folders.py", """
        import os, time

        def run(config, shared):
            os.chdir(os.environ["CLOVE_CHECKPOINT"])
            for a in range(40):
                for b in range(100):
                    os.makedirs(f"{a}/{b}")
                open(f"{a}/f", "w").close()
            for _ in range(300):
                os.mkdir("deep")
                os.chdir("deep")
            open("f", "w").close()
            open("/log/made", "w").close()
            time.sleep(1000)
    """)  # fmt: skip
    log = house.work / "log"
    log.mkdir()
    house.clove("sweep", "run", "-d", "folders.py", "--grid", "x=1", "-v", f"{log}:/log:rw").ok()
    until((log / "made").exists, "the folders")
    house.write("honest.py", """
        import ctypes, os, time

        def run(config, shared):
            place = os.environ["CLOVE_CHECKPOINT"] + "/step"
            if os.path.exists(place):
                return open(place).read()
            open(place, "w").write("kept")
            open("/log/written", "w").close()
            while not os.path.exists("/log/go on"):
                time.sleep(0.01)
            ctypes.string_at(0)
    """)  # fmt: skip
    child = house.start("sweep", "run", "honest.py", "--grid", "x=1", "-v", f"{log}:/log:rw")
    until((log / "written").exists, "the honest checkpoint")
    until(lambda: [p for p in kept(house) if p.name == "step"], "the copy of the honest checkpoint")
    (log / "go on").touch()
    assert child.wait(60) == 0
    assert house.results()[0]["result"] == "kept"
    house.clove("sweep", "cancel", "r1").ok()


# --- names


def test_names_and_ids_that_climb(house: House, prey: Prey) -> None:
    up = "../" * 20
    house.clove("run", "--name", "honest", "--", "true").ok()
    house.clove("inspect", "honest").ok()
    (house.data_dir / "logs" / "honest.log").write_text("x")
    names = [
        f"{up}{str(prey.secret)[1:]}",
        "..",
        "../honest",
        "/etc/passwd",
        "a0.1/../../x",
        "honest\0x",
        f"{'x/' * 500}",
    ]
    for name in names:
        shown = name.replace("\0", "\\0")
        for args in (
            ["run", "--name", shown, "--", "true"], ["logs", shown], ["inspect", shown], ["kill", shown], ["rm", shown],
            ["sweep", "show", shown], ["sweep", "results", shown], ["sweep", "artifacts", shown, str(house.work / "a")],
            ["sweep", "cancel", shown],
        ):  # fmt: skip
            ended = house.clove(*args)
            assert ended.code not in (0, 101) and WORD not in ended.out + ended.err, f"{args}\n{ended}"
    house.write("s.py", "def run(config, shared):\n    return 1\n")
    ended = house.clove(
        "sweep", "run", "s.py", "--list", str(_listed(house, {"x": "../../../../climbed"})), "--name", "../climbed"
    )
    assert not list(house.folder.rglob("climbed*")), f"\n{ended}"


def _listed(house: House, config: dict) -> Path:
    return house.write("list.jsonl", json.dumps(config) + "\n")


def test_a_folder_that_agents_write_leads_nowhere_else(house: House) -> None:
    """One agent turns a folder into a link; the next one is given what lies in it."""
    shared = house.work / "shared"
    (shared / "sub").mkdir(parents=True)
    (shared / "sub" / "file").write_text("honest")
    mount = ["-v", f"{shared}/sub:/data", "--", "cat", "/data/file"]
    assert house.clove("run", *mount).ok().out == "honest", "the control"
    for target in (house.data_dir, house.data_dir / "runs", house.folder, Path("/")):
        house.clove("run", "-v", f"{shared}:/s:rw", "--", "sh", "-c", f"cd /s; mv sub old; ln -s {target} sub").ok()
        ended = house.clove("run", "-v", f"{shared}/sub:/data", "--", "ls", "/data")
        assert ended.code == 125 and not ended.out, f"{target}\n{ended}"
        (shared / "sub").unlink()
        (shared / "old").rename(shared / "sub")


def test_no_program_of_the_operators_is_left_behind(house: House) -> None:
    """What an agent makes in a folder that it may write is the operator's; so it must not run as the operator."""
    shared = house.work / "shared"
    shared.mkdir()
    line = "cp /usr/bin/id /s/id; chmod 755 /s/id; chmod 6755 /s/id || echo refused; install -m 4755 /usr/bin/id /s/id2"
    ended = house.clove("run", "-v", f"{shared}:/s:rw", "--", "sh", "-c", line)
    assert "refused" in ended.out, f"\n{ended}"
    modes = {p.name: p.stat().st_mode & 0o7777 for p in shared.iterdir()}
    assert modes["id"] == 0o755 and not modes.get("id2", 0) & 0o6000, modes
    # The control: what it makes is the operator's indeed, and runs.
    assert (shared / "id").stat().st_uid == os.getuid()
    (shared / "id").chmod(0o6755)
    assert (shared / "id").stat().st_mode & 0o7777 == 0o6755


# --- what all share


def test_its_own_output_cant_be_read_back(house: House) -> None:
    """The kernel would wait for what somebody else has taken."""
    code = "import os\nprint('x', flush=True)\ntry: print(os.read(os.open('/proc/self/fd/1', os.O_RDONLY), 9))\nexcept OSError as e: print(e.strerror)"
    inside = house.clove("run", "--", "python3", "-c", code).ok()
    assert inside.out == "x\nPermission denied\n"
    # The control: whoever's own pipe it is takes it away from its reader.
    reader, writer = os.pipe()
    subprocess.run([sys.executable, "-c", code], check=False, stdout=writer)
    os.close(writer)
    with open(reader) as f:
        assert f.read() == "b'x\\n'\n"


def test_inodes_have_an_end(house: House) -> None:
    code = "n = 0\ntry:\n    while n < 100000: open(f'/tmp/{n}', 'w').close(); n += 1\nexcept OSError as e: print(n, e.strerror)\nelse: print(n)"
    small = house.clove("run", "--disk", "16m", "--", "python3", "-c", code).ok()
    n, why = small.out.split(maxsplit=1)
    assert 1000 < int(n) < 5000 and "No space" in why, small
    assert house.clove("run", "--disk", "1g", "--", "python3", "-c", code).ok().out == "100000\n", "the control"


@pytest.mark.parametrize("stop", ["kill -STOP $$", "kill -STOP -1; kill -STOP $$", "(trap '' TERM; kill -STOP $$)"])
def test_whoever_stops_itself_still_runs_out_of_time(house: House, stop: str) -> None:
    ended = house.clove("run", "--timeout", "1s", "--", "sh", "-c", f"{stop}; echo went on")
    assert ended.code == 124 and not ended.out, f"\n{ended}"
    assert house.clove("run", "--timeout", "20s", "--", "sh", "-c", "echo went on").ok().out == "went on\n"


def test_signals_to_everybody_reach_only_ones_own(house: House) -> None:
    house.clove("run", "-d", "--name", "other", "--", "sleep", "1000").ok()
    other = house.running("other")
    mine = subprocess.Popen(["sleep", "1000"])
    ended = house.clove("run", "--", "sh", "-c", "sleep 1000 & kill -9 -1; wait $!; echo $?")
    # 137: the control, its own child; the shell itself is left out (kill(2)).
    assert ended.out in ("137\n", ""), f"\n{ended}"
    assert alive(other["pid"]) and mine.poll() is None
    mine.kill()
    mine.wait()
    assert house.clove("kill", "other").code == 0


def test_agents_that_ask_without_end_leave_room_for_others(house: House) -> None:
    """Every connection that one agent may have, all of them asking; another command is answered all the same."""
    house.write("ask.py", """
        import os, socket, struct, sys

        call = struct.pack("<IIBBHB3xQ", 2, 0, 1, 0, 0x0103, 0, 1) + b"{}"
        for _ in range(8):
            if os.fork() == 0:
                doors = []
                for _ in range(8):
                    s = socket.socket(socket.AF_UNIX)
                    s.connect(os.environ["CLOVE_SOCKET"])
                    s.setblocking(False)
                    doors.append(s)
                if _ == 7:
                    print("asking", flush=True)
                while True:
                    for s in doors:
                        try:
                            s.send(call * 64)
                            s.recv(1 << 20)
                        except OSError:
                            pass
        os.wait()
    """)  # fmt: skip
    house.clove("run", "-d", "--name", "asker", "-v", f"{house.work}/ask.py:/ask.py", "--", "python3", "/ask.py").ok()
    until(lambda: house.clove("logs", "asker").out.count("asking") == 8, "all to ask")
    for n in range(5):
        assert house.clove("run", "--", "echo", str(n)).ok().out == f"{n}\n"
    assert house.agent("asker")["state"] == "running", "the control: it still asks"
    house.clove("kill", "asker").ok()


def test_a_name_that_many_want_at_once_has_one_owner(house: House) -> None:
    codes: List[int] = []
    threads = [
        threading.Thread(
            target=lambda: codes.append(house.clove("run", "-d", "--name", "one", "--", "sleep", "1000").code)
        )
        for _ in range(6)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(codes)[0] == 0 and all(codes[i] != 0 for i in range(6) if i != codes.index(0)), codes
    assert len([a for a in house.json("ps", "-a") if a["name"] == "one" and a["state"] == "running"]) == 1
    uids = {os.stat(f"/proc/{a['pid']}").st_uid for a in house.json("ps") if a.get("pid")}
    assert len(uids) == 1 and 0 not in uids
    house.clove("kill", "one").ok()
