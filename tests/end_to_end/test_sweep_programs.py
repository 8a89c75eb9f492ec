"""Sweeps of programs in any language, and the files that tasks keep."""

from __future__ import annotations

import os
import shutil

import pytest
from house import House


def test_a_shell_script(house: House) -> None:
    house.write("trial.sh", """
        #!/bin/sh
        a=$(sed 's/.*"a": *\\([0-9]*\\).*/\\1/' "$CLOVE_CONFIG")
        echo "trying $a"
        [ "$a" = 3 ] && exit 4
        echo "{\\"twice\\": $((a * 2)), \\"where\\": \\"$(pwd)\\"}" > "$CLOVE_RESULT"
    """, 0o755)  # fmt: skip
    ended = house.clove("sweep", "run", "./trial.sh", "--grid", "a=1,2,3")
    r = house.results()
    assert ended.code == 1 and [r[i]["result"] for i in (0, 1)] == [
        {"twice": 2, "where": str(house.work)},
        {"twice": 4, "where": str(house.work)},
    ]
    assert (r[2]["state"], r[2]["cause"]) == ("failed", "exit 4")
    assert "trying 3" in house.clove("sweep", "inspect", "last", "2").out


@pytest.mark.skipif(not shutil.which("node"), reason="node isn't there")
def test_node(house: House) -> None:
    house.write("trial.js", """
        #!/usr/bin/env node
        const fs = require("fs");
        const config = JSON.parse(fs.readFileSync(process.env.CLOVE_CONFIG));
        fs.writeFileSync(process.env.CLOVE_RESULT, JSON.stringify({squared: config.x ** 2, half: config.x / 2}));
    """, 0o755)  # fmt: skip
    ended = house.clove("sweep", "run", "./trial.js", "--grid", "x=3,5")
    assert ended.code == 0, f"\n{ended}"
    assert [house.results()[i]["result"] for i in (0, 1)] == [{"squared": 9, "half": 1.5}, {"squared": 25, "half": 2.5}]


def test_a_command_in_a_file(house: House) -> None:
    house.write("s.toml", """
        command = ["python3", "-c", "import json, os; c = json.load(open(os.environ['CLOVE_CONFIG'])); json.dump(c['a'] + 1, open(os.environ['CLOVE_RESULT'], 'w'))"]
        [grid]
        a = [1, 2]
    """)  # fmt: skip
    ended = house.clove("sweep", "run", "s.toml")
    assert ended.code == 0, f"\n{ended}"
    assert [house.results()[i]["result"] for i in (0, 1)] == [2, 3]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo nothing", "CLOVE_RESULT"),
        ("echo '{broken' > $CLOVE_RESULT", "JSON"),
        ("echo 1 > $CLOVE_RESULT; kill -SEGV $$", "SIGSEGV"),
    ],
)
def test_a_result_that_is_missing_or_wrong_is_said(house: House, script: str, words: str) -> None:
    house.write("t.sh", f"#!/bin/sh\n{script}\n", 0o755)
    house.clove("sweep", "run", "./t.sh", "--grid", "a=1", "--retry-deaths", "0")
    t = house.results()[0]
    if words == "CLOVE_RESULT" and t["state"] == "done":
        assert t["result"] is None  # A program without a result is done when it ends with 0.
        return
    assert t["state"] != "done" and words in f"{t['message']} {t['exception']} {t['cause']}", t


def test_what_tasks_keep_is_there_for_each_attempt(house: House) -> None:
    house.write("k.py", """
        import ctypes, os

        def run(config, shared):
            out = os.environ["CLOVE_OUT"]
            with open(f"{out}/model.txt", "w") as f:
                f.write(f"{config['a']} attempt {os.environ['CLOVE_ATTEMPT']}")
            os.makedirs(f"{out}/sub/deeper")
            open(f"{out}/sub/deeper/b.bin", "wb").write(bytes(range(256)))
            os.symlink("/etc/passwd", f"{out}/link")
            if config["a"] == 2 and os.environ["CLOVE_ATTEMPT"] == "1":
                ctypes.string_at(0)
    """)  # fmt: skip
    house.clove("sweep", "run", "k.py", "--grid", "a=1,2").ok()
    dest = house.work / "dest"
    ended = house.clove("sweep", "artifacts", "last", str(dest)).ok()
    assert (dest / "0/model.txt").read_text() == "1 attempt 1" and (
        dest / "1/model.txt"
    ).read_text() == "2 attempt 2", f"\n{ended}"
    assert (dest / "1/sub/deeper/b.bin").read_bytes() == bytes(range(256))
    assert not (dest / "0/link").exists() and not os.path.islink(dest / "0/link")
    assert (dest / "0/model.txt").stat().st_uid == os.getuid()
    every = house.work / "every"
    house.clove("sweep", "artifacts", "last", str(every), "--all-attempts").ok()
    assert (every / "1/1/model.txt").read_text() == "2 attempt 1" and (
        every / "1/2/model.txt"
    ).read_text() == "2 attempt 2"
    one = house.work / "one"
    house.clove("sweep", "artifacts", "last", "1", str(one)).ok()
    assert (one / "1/model.txt").exists() and not (one / "0").exists()


STEPS = """
    import ctypes, os, time

    def run(config, shared):
        place = os.environ["CLOVE_CHECKPOINT"] + "/step"
        begin = int(open(place).read()) if os.path.exists(place) else 0
        for step in range(begin, 6):
            with open("/log/steps", "a") as f:
                f.write(f"{config['a']}:{step}\\n")
            with open(place + ".new", "w") as f:
                f.write(str(step + 1))
            os.rename(place + ".new", place)
            if step == 2 and begin == 0:
                %s
        return {"begin": begin}
"""


def test_a_retry_goes_on_from_its_checkpoint(house: House) -> None:
    log = house.work / "log"
    log.mkdir()
    house.write("c.py", STEPS % "ctypes.string_at(0)")
    house.clove("sweep", "run", "c.py", "--grid", "a=1,2", "-v", f"{log}:/log:rw").ok()
    assert {t["result"]["begin"] for t in house.results().values()} == {3}
    steps = (log / "steps").read_text().split()
    assert sorted(steps) == sorted(f"{a}:{s}" for a in (1, 2) for s in range(6)), steps


def test_checkpoints_survive_kill_9_of_everything(house: House) -> None:
    from deadline import until

    log = house.work / "log"
    log.mkdir()
    house.write("c.py", STEPS % "time.sleep(1000)")
    house.clove("sweep", "run", "c.py", "--grid", "a=1,2", "-v", f"{log}:/log:rw", "-d", "-j", "2").ok()
    until(lambda: (log / "steps").exists() and (log / "steps").read_text().count(":2\n") == 2, "both at step 2")

    def kept() -> bool:
        """Step 3 is noted right after; on disk is what has been quiet for a while."""
        return sorted(p.read_text() for p in house.home.glob("**/checkpoint/*/step")) == ["3", "3"]

    until(kept, "both checkpoints on disk")
    house.kill_everything()
    house.clove("sweep", "resume", "last").ok()
    assert {t["result"]["begin"] for t in house.results().values()} == {3}, house.results()
    steps = (log / "steps").read_text().split()
    assert sorted(steps) == sorted(f"{a}:{s}" for a in (1, 2) for s in range(6)), steps
