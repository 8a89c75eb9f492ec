"""The demo's parts that need neither the environment nor the network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloveos.demo import dataset, environment, faults, measure, published, sweep_file, untrusted, victims
from cloveos.demo.bystanders import Bystanders
from cloveos.demo.column import Attempt, assign_lanes
from cloveos.demo.drug_discovery import size

NAMES = [f"{target}-{model}" for target in dataset.DEFAULT_TARGETS for model in dataset.MODELS]


def test_victims_are_distinct_and_repeat_with_the_seed() -> None:
    for seed in range(200):
        chosen = victims.choose(NAMES, seed)
        assert len(set(chosen)) == 3
        assert chosen == victims.choose(NAMES, seed)


def test_victims_can_be_named_by_number_or_name() -> None:
    chosen = victims.choose(NAMES, 1, crash="17", leak=NAMES[3])
    assert chosen.segfault == 16
    assert chosen.leak == 3
    assert chosen.kill not in (3, 16)


@pytest.mark.parametrize("wrong", ["0", "49", "nobody"])
def test_unknown_victims_are_refused(wrong: str) -> None:
    with pytest.raises(victims.BadVictim, match="from 1 to 48"):
        victims.choose(NAMES, 1, kill=wrong)


def test_one_experiment_cannot_be_two_victims() -> None:
    with pytest.raises(victims.BadVictim):
        victims.choose(NAMES, 1, crash="5", leak=NAMES[4])


def test_faults_are_for_the_first_attempt_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOVE_ATTEMPT", "2")
    faults.suffer({"fault": "segfault", "attempt_of_fault": 1})
    monkeypatch.delenv("CLOVE_ATTEMPT")
    with pytest.raises(ValueError, match="unknown fault"):
        faults.suffer({"fault": "flood"})


def test_the_segfault_is_real() -> None:
    folder = str(Path(faults.__file__).parent)
    code = f"import sys; sys.path.insert(0, {folder!r}); import faults; faults.suffer({{'fault': 'segfault'}})"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGSEGV


def test_published_figures_cover_the_default_experiments() -> None:
    figures = published.read()
    assert len(figures) == 48
    configs = [{"target": t, "model": m} for t in dataset.DEFAULT_TARGETS for m in dataset.MODELS]
    exact = {place: {"rmse": figures[one["target"], one["model"]]} for place, one in enumerate(configs)}
    assert published.compare(configs, exact, figures) == (12, 12, 48, 48)
    off = {place: {"rmse": one["rmse"] * 1.06} for place, one in exact.items()}
    assert published.compare(configs, off, figures) == (0, 12, 0, 48)
    assert published.compare(configs, {}, figures) == (0, 12, 0, 48)


def test_every_requirement_is_pinned_and_hashed() -> None:
    text = environment.REQUIREMENTS.read_text() + environment.DATASET_REQUIREMENT.read_text()
    logical = text.replace("\\\n", " ").splitlines()
    pins = [line for line in logical if line.strip() and not line.startswith("#")]
    assert len(pins) == 13
    assert all("==" in line and "--hash=sha256:" in line for line in pins)


def test_environment_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setattr(environment, "pip", lambda python: [str(python), "-m", "pip", "-q", "--retries", "0"])
    with pytest.raises(environment.EnvironmentFailed, match="index can't be reached"):
        environment.ensure(lambda text: None)
    home = tmp_path / "home" / "clove" / "demo"
    assert home.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in home.iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES from the requirements file", "its hash differs"),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: something new", "something new"),
    ],
)
def test_failures_of_pip_become_sentences(output: str, expected: str) -> None:
    assert expected in environment.explain("installing", output, 1)


def test_sizes() -> None:
    assert size("1g") == 1 << 30
    assert size("512M") == 512 << 20
    for wrong in ("lots", "64m"):
        with pytest.raises(Exception, match=r"size|little"):
            size(wrong)


def test_toml_is_what_a_toml_reader_reads() -> None:
    tomllib = pytest.importorskip("tomllib")
    text = sweep_file.sweep(
        Path('/a "quoted"/x.py'), Path("/py"), [{"target": "t\\", "shuffle": False, "linger_s": 5.0}],
        2, 7, 1 << 30, {"A": "b\nc\x7f"}, [Path("/w")],
    )  # fmt: skip
    read = tomllib.loads(text)
    assert read["script"] == '/a "quoted"/x.py'
    assert read["list"] == [{"target": "t\\", "shuffle": False, "linger_s": 5.0}]
    assert read["env"] == {"A": "b\nc\x7f"}
    assert read["mounts"] == [{"source": "/w", "target": "/w"}]
    assert read["limits"]["memory"] == f"{1 << 30}b"


def test_lanes_never_overlap() -> None:
    attempts = [Attempt(0, 1, 0, 5, "done"), Attempt(1, 1, 0, 2, "done"), Attempt(2, 1, 2, 4, "done")]
    assert assign_lanes(attempts) == 2
    assert [one.lane for one in attempts] == [0, 1, 1]


def test_hostile_text_is_made_visible() -> None:
    assert untrusted.for_terminal("a\x1b[2Jb\u202e") == "a\\x1b[2Jb\\u202e"
    assert untrusted.for_html("<script>\x00") == "&lt;script&gt;\\x00"


def test_the_victim_of_a_kill_is_drawn_from_those_that_are_fit_for_it() -> None:
    names = [f"e{n}" for n in range(48)]
    for seed in range(30):
        chosen = victims.choose(names, seed, kill_among=[9, 17])
        assert chosen.kill in (9, 17)
        assert len(set(chosen)) == 3
    assert victims.choose(names, 1, kill="e3", kill_among=[9, 17]).kill == 3
    assert victims.choose(names, 1, crash="e9", kill_among=[9, 17]).kill == 17


def test_sampler_sees_memory_of_grandchildren() -> None:
    code = "import os,time\npid = os.fork()\nx = b'x' * (64 << 20 if pid == 0 else 1)\ntime.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    sampler = measure.Sampler(lambda: [child.pid]).start()
    deadline = time.monotonic() + 30
    while not (sampler.peak_bytes > 64 << 20 and len(sampler.samples) > 5) and time.monotonic() < deadline:
        time.sleep(0.02)
    sampler.stop()
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert sampler.peak_bytes > 64 << 20
    assert len(sampler.samples) > 5


def test_sampler_follows_processes_that_come_and_go() -> None:
    code = (
        "import os, time\nkept = []\nfor _ in range(30):\n    if os.fork() == 0:\n        time.sleep(0.15)\n"
        "        os._exit(0)\n    kept.append(b'x' * (4 << 20))\n    time.sleep(0.05)\n"
    )
    sampler = measure.Sampler(lambda: [child.pid])
    child = subprocess.Popen([sys.executable, "-c", code])
    sampler.start()
    child.wait()
    sampler.stop()
    assert sampler.peak_bytes > 100 << 20
    assert sampler.cost_s < 0.5


def test_sampler_does_not_hide_its_failure() -> None:
    def broken() -> list[int]:
        raise RuntimeError("nothing to look at")

    with pytest.raises(RuntimeError, match="nothing to look at"):
        measure.Sampler(broken).start().stop()


def test_bystanders_notice_who_is_gone() -> None:
    other = subprocess.Popen(["sleep", "60"])
    watch = Bystanders()
    watch.started(0, "victim", None)
    watch.started(1, "me", os.getpid())
    watch.started(2, "other", other.pid)
    watch.died(0, "victim", True)
    assert watch.disturbed == 0
    other.kill()
    other.wait()
    watch.died(0, "victim", True)
    assert watch.disturbed == 1
    assert watch.lines[-1].endswith("NOT THERE ANY MORE: other")
    watch.died(2, "other", False)
    assert watch.disturbed == 1
    assert "other" in watch.lines[1]


def test_bystanders_that_finish_meanwhile_are_not_disturbed() -> None:
    other = subprocess.Popen(["sleep", "60"])
    watch = Bystanders()
    watch.started(2, "other", other.pid)
    other.kill()
    other.wait()
    watch.died(0, "victim", True)
    watch.ended(2)
    assert watch.disturbed == 0
    assert "just over" in watch.lines[0]
