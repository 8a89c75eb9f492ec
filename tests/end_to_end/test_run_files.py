"""Folders and files of the host: only what was asked for is seen, and what is written belongs to the operator."""

from __future__ import annotations

import os

import pytest
from house import House


def test_nothing_of_the_caller_is_seen_unasked(house: House) -> None:
    house.write("data.txt", "secret")
    ended = house.clove(
        "run", "--", "sh", "-c", f"cat {house.work}/data.txt; ls /home /root; env", env={"TOKEN": "s3cret"}
    )
    assert "s3cret" not in ended.out and "secret" not in ended.out
    hint = [line for line in ended.err.splitlines() if line.startswith("clove: ")]
    # The command ends with env's 0: no hint is due. With a failure it is:
    failed = house.clove("run", "--", "cat", f"{house.work}/data.txt")
    assert failed.code == 1 and "--here" in failed.err, f"{hint}\n{failed}"
    assert house.clove("run", "--here", "--", "cat", f"{house.work}/data.txt").out == "secret"


def test_a_file_elsewhere_gets_the_flag_that_would_show_it(house: House) -> None:
    other = house.folder / "other"
    other.mkdir()
    (other / "x.csv").write_text("1,2\n")
    for program in (["cat", f"{other}/x.csv"], ["python3", "-c", f"open('{other}/x.csv')"]):
        failed = house.clove("run", "--", *program)
        assert failed.code == 1 and f"-v {other}:{other}" in failed.err, f"\n{failed}"
    assert house.clove("run", "-v", f"{other}:{other}", "--", "cat", f"{other}/x.csv").out == "1,2\n"
    # What isn't on the host either gets no such advice.
    assert "clove:" not in house.clove("run", "--", "cat", "/nowhere/x").err


def test_mounts_are_read_only_unless_said_otherwise(house: House) -> None:
    house.write("d/in.txt", "in")
    mount = f"{house.work}/d:/data"
    refused = house.clove("run", "-v", mount, "--", "sh", "-c", "cat /data/in.txt && echo x > /data/out.txt")
    assert (
        refused.out == "in"
        and refused.code != 0
        and "read-only" in refused.err.lower()
        and f"{mount}:rw" in refused.err
    ), f"\n{refused}"
    assert not (house.work / "d/out.txt").exists()
    house.clove(
        "run", "-v", f"{mount}:rw", "--", "sh", "-c", "echo x > /data/out.txt; mkdir /data/sub; echo y > /data/sub/z"
    ).ok()
    for name in ("out.txt", "sub", "sub/z"):
        assert (house.work / "d" / name).stat().st_uid == os.getuid(), name
    assert (house.work / "d/in.txt").stat().st_uid == os.getuid()


def test_a_relative_source_and_a_single_file(house: House) -> None:
    house.write("d/in.txt", "in")
    assert house.clove("run", "-v", "./d:/data", "--", "cat", "/data/in.txt").out == "in"
    assert house.clove("run", "-v", "d/in.txt:/one", "--", "cat", "/one").out == "in"


def test_here(house: House) -> None:
    house.write("train.py", "import mylib\nprint(mylib.x, open('data.txt').read())\n")
    house.write("mylib.py", "x = 7\n")
    house.write("data.txt", "rows")
    assert house.clove("run", "--here", "--", "python3", "train.py").out == "7 rows\n"
    without = house.clove("run", "--", "python3", "train.py")
    assert without.code != 0 and "--here" in without.err, f"\n{without}"
    written = house.clove("run", "--here", "--", "sh", "-c", "echo x > new.txt")
    assert written.code != 0 and not (house.work / "new.txt").exists() and "read-only" in written.err.lower()


@pytest.mark.parametrize("where", ["/", "home"])
def test_here_is_refused_where_it_is_too_much(house: House, where: str) -> None:
    folder = "/" if where == "/" else str(house.work)
    env = {} if where == "/" else {"HOME": folder}
    ended = house.clove("run", "--here", "--", "true", cwd=folder, env=env)
    assert ended.code == 125 and "try:" in ended.err, f"\n{ended}"


def test_the_data_directory_is_never_mounted(house: House) -> None:
    house.clove("run", "--", "true").ok()
    for source in (house.home, house.home / "journal", house.folder):
        ended = house.clove("run", "-v", f"{source}:/x", "--", "ls", "/x")
        assert ended.code == 125 and ended.out == "" and str(source) in ended.err, f"{source}\n{ended}"
    link = house.work / "link"
    link.symlink_to(house.home)
    assert house.clove("run", "-v", f"{link}:/x", "--", "ls", "/x").code == 125


def test_the_environment_is_built_from_nothing(house: House) -> None:
    ended = house.clove("run", "-e", "A=1", "-e", "B", "-e", "C=", "--", "env", env={"B": "from caller", "OTHER": "x"})
    seen = dict(line.split("=", 1) for line in ended.ok().out.splitlines())
    assert (
        seen["A"] == "1"
        and seen["B"] == "from caller"
        and seen["C"] == ""
        and "OTHER" not in seen
        and seen["HOME"] != os.environ["HOME"]
    )
    assert {k for k in seen if not k.startswith("CLOVE_")} <= {
        "A",
        "B",
        "C",
        "HOME",
        "LANG",
        "PATH",
        "USER",
        "PWD",
        "SHLVL",
        "_",
        "TERM",
        "TMPDIR",
    }, seen


def test_the_working_folder(house: House) -> None:
    assert house.clove("run", "--", "pwd").out == "/work\n"
    assert house.clove("run", "-w", "/tmp", "--", "pwd").out == "/tmp\n"
    assert house.clove("run", "--here", "--", "pwd").out == f"{house.work}\n"


def test_names_with_spaces_and_other_letters(house: House) -> None:
    house.write("a folder/Ünï côde.txt", "text")
    assert (
        house.clove("run", "-v", f"{house.work}/a folder:/d/with space", "--", "cat", "/d/with space/Ünï côde.txt").out
        == "text"
    )
    assert house.clove("run", "--", "printf", "%s", "ünï  'quoted' \"x\" $HOME *").out == "ünï  'quoted' \"x\" $HOME *"
