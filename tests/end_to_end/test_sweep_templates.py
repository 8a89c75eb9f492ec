"""What goes wrong while a sweep's script is loaded is told with everything its author needs."""

from __future__ import annotations

import os

import pytest
from deadline import until
from house import House, finish


def failed(house: House, script: str, *flags: str) -> str:
    """What a sweep that can't be run says, on both streams."""
    house.write("s.py", script)
    ended = house.clove("sweep", "run", "s.py", "--grid", "a=1,2", *flags)
    assert ended.code == 125, f"\n{ended}"
    return ended.out + ended.err


def test_an_import_error_comes_with_its_traceback(house: House) -> None:
    text = failed(house, "import os\nimport no_such_module_at_all\ndef run(config, shared): pass\n")
    assert (
        "ModuleNotFoundError: No module named 'no_such_module_at_all'" in text and "s.py" in text and "line 2" in text
    ), text


def test_a_syntax_error_names_its_line(house: House) -> None:
    text = failed(house, "def run(config, shared):\n    return (1\n")
    assert "s.py" in text and "line 2" in text and "SyntaxError" in text, text


def test_setup_that_raises(house: House) -> None:
    text = failed(house, "def setup():\n    raise RuntimeError('no data today')\ndef run(config, shared): pass\n")
    assert "RuntimeError: no data today" in text and "in setup" in text and "line 2" in text, text


def test_setup_that_dies(house: House) -> None:
    text = failed(house, "import ctypes\ndef setup():\n    ctypes.string_at(0)\ndef run(config, shared): pass\n")
    assert "SIGSEGV" in text, text
    text = failed(house, "import os\ndef setup():\n    os._exit(3)\ndef run(config, shared): pass\n")
    assert "3" in text and "setup" in text, text


def test_threads_left_running_are_named(house: House) -> None:
    text = failed(house, """
        import threading, time
        def setup():
            threading.Thread(target=time.sleep, args=(1000,), name="feeder", daemon=True).start()
        def run(config, shared): pass
    """)  # fmt: skip
    assert "thread" in text and ("feeder" in text or "setup()" in text), text


def test_a_script_without_run(house: House) -> None:
    text = failed(house, "def main(config): pass\n")
    assert "run(config, shared)" in text, text


def test_a_script_that_is_not_there(house: House) -> None:
    ended = house.clove("sweep", "run", "gone.py", "--grid", "a=1")
    assert ended.code == 125 and "gone.py" in ended.err and "no such file" in ended.err, f"\n{ended}"


def test_an_import_that_hangs_can_be_cancelled(house: House) -> None:
    house.write("s.py", "import time\ntime.sleep(1000)\ndef run(config, shared): pass\n")
    child = house.start("sweep", "run", "s.py", "--grid", "a=1")
    until(lambda: house.json("sweep", "ls"), "the sweep")
    until(lambda: house.agent_pids(), "its template")
    house.clove("sweep", "cancel", "last", patience=20).ok()
    assert finish(child, patience=20).code == 130
    until(lambda: not house.agent_pids(), "the template's end", 20)


@pytest.mark.parametrize(
    "body", ["import sys; sys.exit(3)", "raise SystemExit('not today')", "import os; os.kill(os.getpid(), 9)"]
)
def test_a_script_that_ends_while_it_is_loaded(house: House, body: str) -> None:
    text = failed(house, f"{body}\ndef run(config, shared): pass\n")
    assert "s.py" in text or "while" in text, text


def test_a_mended_script_is_loaded_anew(house: House) -> None:
    house.write("s.py", "def run(config, shared):\n    return 'old'\n")
    house.clove("sweep", "run", "s.py", "--grid", "a=1").ok()
    house.write("s.py", "def run(config, shared):\n    return 'new'\n")
    house.clove("sweep", "run", "s.py", "--grid", "a=1").ok()
    assert house.results()[0]["result"] == "new"


def test_a_changed_module_beside_the_script_is_loaded_anew(house: House) -> None:
    house.write("lib.py", "VALUE = 'old'\n")
    house.write("s.py", "import lib\ndef run(config, shared):\n    return lib.VALUE\n")
    house.clove("sweep", "run", "s.py", "--grid", "a=1").ok()
    assert house.results()[0]["result"] == "old"
    house.write("lib.py", "VALUE = 'new'\n")
    house.clove("sweep", "run", "s.py", "--grid", "a=1").ok()
    assert house.results()[0]["result"] == "new"


def test_a_template_loads_with_one_thread_and_its_tasks_get_their_share(house: House) -> None:
    house.write("n.py", """
        import os

        def setup():
            return os.environ["OMP_NUM_THREADS"]

        def run(config, shared):
            return [shared, os.environ["OMP_NUM_THREADS"]]
    """)  # fmt: skip
    cpus = len(os.sched_getaffinity(0))
    house.clove("sweep", "run", "n.py", "--grid", "a=1", "-j", "1").ok()
    assert house.results()[0]["result"] == ["1", str(cpus)]
    house.clove("sweep", "run", "n.py", "--grid", "a=1", "-j", "1", "-e", "OMP_NUM_THREADS=3").ok()
    assert house.results()[0]["result"] == ["1", "3"]
