"""Interpreters that are missing, old or broken, and scripts that hang, crash or never end while they are loaded."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import List

import pytest
from deadline import until
from house import Ended, House, finish

SCRIPT = "def run(config, shared):\n    return shared\n"


def sweep(house: House, *more: str, script: str = "s.py", patience: float = 60) -> Ended:
    return house.clove("sweep", "run", script, "--grid", "i=1", *more, patience=patience)


def fake(house: House, name: str, text: str) -> str:
    house.write(name, text, 0o755)
    return f"./{name}"


def test_interpreters_that_are_none(house: House) -> None:
    house.write("s.py", SCRIPT)
    old = "case \"$*\" in *version_info*'%d'*|*\"'%d.\"*) printf 3.6.9;; *) echo 'SyntaxError: invalid syntax' >&2; exit 1;; esac"
    cases = [
        ("/no/such/python", ["there is no program /no/such/python", "correct the path"]),
        ("python9.9", ["there is no program `python9.9` on your PATH", "check the spelling"]),
        ("/tmp", ["/tmp is a folder, not a program"]),
        (
            fake(house, "text", "not a program\n"),
            ["doesn't answer as a Python", "it can't be started: exec format error"],
        ),
        (fake(house, "silent", "#!/bin/sh\nexit 1\n"), ["doesn't answer as a Python", "exit code 1, and said nothing"]),
        (fake(house, "loud", "#!/bin/sh\necho no licence >&2; exit 3\n"), ["exit code 3, saying: no licence"]),
        (fake(house, "liar", "#!/bin/sh\necho Python 3.12\n"), ["it ran, but didn't do what Python code asks of it"]),
        (
            fake(house, "old", f"#!/bin/sh\n{old}\n"),
            ["/old is Python 3.6.9", "at least 3.9 is needed", "name a newer one"],
        ),
    ]
    (house.work / "venv").mkdir()
    (house.work / "venv/python").symlink_to("/gone/python3")
    cases.append(("venv/python", ["venv/python is a link to /gone/python3, and that is gone", "venv --upgrade"]))
    for python, words in cases:
        ended = sweep(house, "--python", python)
        assert ended.code == 125 and "it was to be the sweep's interpreter (from --python" in ended.err, f"\n{ended}"
        assert all(w in ended.err for w in words), f"{python}: {words}\n{ended}"
    ended = house.clove("sweep", "run", "s.py", "--grid", "i=1", env={"PATH": "/nonexistent"})
    assert "there is no program `python3` on your PATH" in ended.err and ended.last_words.startswith(
        "  try: install python3"
    )
    assert not house.home.joinpath("journal").exists(), "no kernel was needed for that"


def older_pythons() -> List[Path]:
    """Of pyenv, if there are any."""
    found = sorted(Path("/root/.pyenv/versions").glob("*/bin/python"))
    return [p for p in found if re.fullmatch(r"2\..*|3\.[0-8]\..*", p.parent.parent.name)]


def test_interpreters_that_are_really_too_old(house: House) -> None:
    house.write("s.py", SCRIPT)
    for python in older_pythons():
        ended = sweep(house, "--python", str(python))
        version = python.parent.parent.name
        assert ended.code == 125 and f"{python} is Python {version}\n  at least 3.9 is needed" in ended.err, (
            f"\n{ended}"
        )


def test_an_environment_without_the_packages(house: House) -> None:
    house.write("s.py", "import no_such_package\n" + SCRIPT)
    house.any([sys.executable, "-m", "venv", "--without-pip", "v"]).ok()
    ended = sweep(house, "--python", "v/bin/python")
    assert ended.code == 125 and "s.py failed: ModuleNotFoundError: No module named 'no_such_package'" in ended.out
    assert 's.py", line 1, in <module>' in ended.out, f"\n{ended}"
    assert "or name another interpreter (--python)" in ended.out


SETUPS = {
    "raises": (
        "raise ValueError('no data in /data')",
        r"setup\(\) failed: ValueError: no data in /data\n.*line 2, in setup",
    ),
    "leaves": ("import sys; sys.exit(3)", r"setup\(\) failed: it called sys.exit\(3\)"),
    "vanishes": ("import os; os._exit(0)", r"its process ended in the middle of setup\(\) \(exit code 0\)"),
    "crashes": (
        "import ctypes; ctypes.string_at(0)",
        r"in the middle of setup\(\) \(SIGSEGV: a crash in native code\); its last output:\n.*Fatal Python error.*line 2 in setup",
    ),
    "is_killed": ("import os; os.kill(os.getpid(), 9)", r"in the middle of setup\(\) \(SIGKILL"),
    "forks": (
        "import os, time\n    if os.fork() == 0: time.sleep(1000)",
        r"1 process\S* that it has started still runs? after its setup",
    ),
    "hoards": (
        "x = []\n    while True: x.append(bytearray(1 << 24))",
        r"in the middle of setup\(\) \(it needed more memory than \d+ MiB, all that agents may have here\)",
    ),
}


def test_setups_that_fail(house: House) -> None:
    # So that one that takes all memory takes little.
    env = {"SLURM_MEM_PER_NODE": "800"}
    for name, (body, words) in SETUPS.items():
        house.write(f"{name}.py", f"def setup():\n    {body}\n{SCRIPT}")
        ended = house.clove("sweep", "run", f"{name}.py", "--grid", "i=1", env=env)
        assert ended.code == 125 and re.search(words, ended.out, re.S), f"{name}: {words}\n{ended}"
        assert f"{name}  failed: 0 of 1 done, 1 cancelled" in ended.out, f"\n{ended}"
    house.write("prints.py", f"def setup():\n    for _ in range(1000): print('x' * 100_000)\n    return 5\n{SCRIPT}")
    assert house.clove("sweep", "run", "prints.py", "--grid", "i=1").ok().out.endswith("0  done   0.00     1  5\n")


def test_an_import_that_hangs(house: House) -> None:
    house.write("stuck.py", "import time\nprint('asking the licence server', flush=True)\ntime.sleep(1000)\n")
    house.write("s.py", SCRIPT)
    house.write(
        "s.toml", 'script = "s.py"\ngrid = { i = [1] }\n[template]\npreload = ["json", "stuck"]\ntimeout = "4s"\n'
    )
    child = house.start("sweep", "run", "s.toml")
    until(lambda: "loading   importing stuck, for " in house.clove("sweep", "show").out, "what it hangs in")
    ended = finish(child)
    assert ended.code == 125, f"\n{ended}"
    assert "r1: loading, before the first task: importing stuck, for " in ended.err
    assert (
        'loading hasn\'t ended after 4.0 s; it hangs in, or takes that long for: importing stuck ([template] timeout = "1h" '
        "gives it longer); its last output:\n    | asking the licence server\n" in ended.out
    ), f"\n{ended}"


def test_ctrl_c_while_an_import_hangs(house: House) -> None:
    house.write("s.py", "import time\ntime.sleep(1000)\n" + SCRIPT)
    terminal = house.terminal("sweep", "run", "s.py", "--grid", "i=1")
    terminal.expect("1 running")
    terminal.type(b"\x03")
    terminal.expect("press Ctrl-C again")
    terminal.type(b"\x03")
    assert terminal.wait() == 130
    assert house.shown()["state"] == "cancelled"
    until(lambda: not house.agent_pids(), "the template's end")


RESULTS = {
    "function": ("lambda: 1", "result: function is not storable as JSON; return numbers, strings, lists or dicts"),
    "set": ("{1, 2}", "result: set is not storable as JSON; return sorted(...) of it"),
    "bytes": (r"b'\x00'", "result: bytes is not storable as JSON; return .hex() of it, or write it to $CLOVE_OUT"),
    "key": ("{(1, 2): 3}", "result: a key of type tuple is not storable as JSON; use text"),
    "surrogate": (r"'\ud800'", "result: text with bytes that aren't UTF-8 is not storable"),
    "huge": (
        "'x' * (100 << 20)",
        "result: 100.0 MiB as JSON, and at most 8 MiB are kept; write it into a file in $CLOVE_OUT",
    ),
    "itself": ("(a := [], a.append(a))[0]", "result[0]: contains itself"),
    "number": ("1 << 70", "result: an integer beyond 64 bits is not storable exactly; return str(n) or float(n)"),
}


def test_results_that_cannot_be_stored(house: House) -> None:
    bodies = "\n".join(f"    if config['what'] == '{name}': return {body}" for name, (body, _) in RESULTS.items())
    house.write("s.py", f"def run(config, shared):\n{bodies}\n    return {{'nan': float('nan')}}\n")
    what = ",".join([*RESULTS, "nothing"])
    ended = house.clove("sweep", "run", "s.py", "--grid", f"what={what}", "--memory", "600m", "--task-name", "{what}")
    assert ended.code == 1 and "1 of 9 done, 8 failed" in ended.out, f"\n{ended}"
    for i, (name, (_, words)) in enumerate(RESULTS.items()):
        assert f"#{i} {name} failed: cloveos.NotStorable: {words}" in ended.err, f"{name}\n{ended}"
    house.write("cold.sh", "#!/bin/sh\nhead -c 12000000 /dev/zero | tr '\\0' 1 > \"$CLOVE_RESULT\"\n", 0o755)
    ended = house.clove("sweep", "run", "./cold.sh", "--grid", "i=1", "--memory", "100m")
    assert ended.code == 1 and "its result can't be taken: $CLOVE_RESULT is larger than " in ended.err, f"\n{ended}"


@pytest.mark.parametrize("script", ["s.py", "wrong.py"])
def test_a_script_without_run(house: House, script: str) -> None:
    """Seen before anything starts, when the word isn't even in it; else when it is loaded."""
    house.write("s.py", "def main(config): return 1\n")
    house.write("wrong.py", "run = 5\n")
    ended = sweep(house, script=script)
    assert ended.code == 125 and "defines no" in f"{ended}" and "run" in f"{ended}", f"\n{ended}"
    assert house.home.joinpath("journal").exists() == (script == "wrong.py")
