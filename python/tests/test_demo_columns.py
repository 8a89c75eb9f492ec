"""The demo's columns on a stub experiment, with a stand-in for the `clove` binary."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from cloveos.demo import clove_cli, clove_column, present, report, standalone_column, summary, table, victims
from cloveos.demo.bystanders import Bystanders
from cloveos.demo.standalone_column import Work

STUB = """
import hashlib, os, sys, time
sys.path.insert(0, {folder!r})
import faults

def setup():
    return None

def run(config, shared):
    faults.suffer(config)
    time.sleep(0.05)
    digest = hashlib.sha256(config["target"].encode()).hexdigest()
    return {{"rmse": 0.5, "auc": 0.9, "prediction_digest": digest, "n_train": 1, "n_test": 1, "seconds": 0.05}}
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    script = tmp_path / "experiment.py"
    script.write_text(STUB.format(folder=str(Path(victims.__file__).parent)))
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setenv("CLOVE_BIN", str(Path(__file__).with_name("fake_clove.py")))
    monkeypatch.setenv("FAKE_CLOVE_DIR", str(state))
    names = [f"{config['target']}-{config['model']}" for config in configs()]
    environment = {"DRUG_DISCOVERY_WHEEL": "/nowhere", "DRUG_DISCOVERY_FEATURES": "/nowhere"}
    return Work(names, script, Path(sys.executable), environment, 96 << 20, 2, 2)


def configs() -> list[dict[str, Any]]:
    return [{"target": f"T{n}", "model": model} for n in range(5) for model in ("SVM", "RF", "GBM", "KNN")]


CHOSEN = victims.Victims(segfault=12, leak=5, kill=9)


def ignore(*_: object) -> None:
    """Take any progress."""


def test_sequential_ends_at_the_first_fault(work: Work) -> None:
    column = standalone_column.run(
        "sequential", "sequential", victims.with_faults(configs(), CHOSEN), work, CHOSEN, ignore
    )
    assert column.completed == 5
    assert "MemoryError in #6" in column.what_happened
    assert 0 < column.peak_bytes < 160 << 20


def test_sequential_dies_of_each_fault(work: Work) -> None:
    for chosen, words in (
        (victims.Victims(2, 5, 9), "a segfault in #3"),
        (victims.Victims(12, 15, 1), "the kill by hand in #2"),
    ):
        told = victims.with_faults(configs(), chosen)
        column = standalone_column.run("sequential", "sequential", told, work, chosen, ignore)
        assert words in column.what_happened
        assert column.completed == min(chosen.segfault, chosen.kill)


def test_pool_survives_the_leak_and_breaks_at_the_kill(work: Work) -> None:
    # Far apart: how long it takes to leak up to the cap depends on the machine.
    chosen = victims.Victims(segfault=19, leak=1, kill=17)
    column = standalone_column.run("pool", "pool", victims.with_faults(configs(), chosen), work, chosen, ignore)
    assert 14 <= column.completed < 20
    assert "MemoryError in #2; BrokenProcessPool after" in column.what_happened


def test_clove_column_completes_and_reports(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = victims.with_faults(configs(), CHOSEN)
    reference = standalone_column.run("no faults", "pool", victims.with_faults(configs(), None), work, None, ignore)
    assert reference.completed == 20
    audience = present.Grid(work.names, [*configs()], CHOSEN.kill, 1.0, io.StringIO())
    bystanders = Bystanders()
    ours = clove_column.run(told, work, CHOSEN, 1, audience, bystanders, ignore)
    assert ours.error is None
    assert ours.completed == 20
    assert [one["position"] for one in ours.certificates] == [5, 9, 12]
    assert sum(one.end == "done" for one in ours.attempts) == 20
    assert len(bystanders.lines) == 3
    assert bystanders.disturbed == 0
    whole = summary.Summary(configs(), work.names, CHOSEN, 1, False, 1 << 29, 2, {}, [reference, ours], reference, ours)
    assert whole.passed()
    assert whole.last_line() == (
        "20 of 20 done, 3 faults injected (segfault, leak, kill): 3 deaths, 3 retried; "
        "prediction digests equal to the unisolated run: 20/20"
    )
    picture = report.write(whole, tmp_path / "out" / "report.html")
    page = (tmp_path / "out" / "report.html").read_text()
    assert picture.read_text().startswith("<svg ")
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert max(map(len, table.comparison(whole.columns).splitlines())) <= table.WIDTH
    assert report.killers(whole)[0].startswith("T2-RF, attempt 1, was killed by operator, command clove, pid 1")
    assert "T2-RF" in "\n".join(audience.lines())


def test_a_kill_that_fails_is_said(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CLOVE_KILL", "no such agent")
    told = victims.with_faults(configs(), CHOSEN, linger_s=1.5)
    said: list[str] = []
    audience = present.Progress(work.names, io.StringIO())
    ours = clove_column.run(told, work, CHOSEN, 1, audience, Bystanders(), said.append)
    assert ours.completed == 20
    assert "`clove kill T2-RF` ended with 1: clove: error: no such agent" in (ours.error or "")
    assert "the kill by hand of T2-RF never came about" in "".join(said)
    whole = summary.Summary(configs(), work.names, CHOSEN, 1, False, 1 << 29, 2, {}, [ours], None, ours)
    assert not whole.passed()
    assert "2 faults injected (segfault, leak), KILL MISSED: 2 deaths, 2 retried" in whole.last_line()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("not json", "doesn't understand: not json"),
        ('{"kind": "task", "name": "flat"}', "doesn't understand"),
        ('{"kind": "run", "run": {"state": "failed", "message": "no module x"}}', "it is failed: no module x"),
        ("", "hasn't finished"),
    ],
)
def test_a_watch_that_says_something_else_is_refused(lines: str, words: str) -> None:
    with pytest.raises(clove_cli.CliFailed, match=words):
        list(clove_cli.WatchedSweep(["/bin/echo", lines] if lines else ["/bin/true"]))


def test_missing_binary_is_said(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOVE_BIN", "/nowhere/clove")
    column = clove_column.run(
        configs(), work, CHOSEN, 1, present.Progress(work.names, io.StringIO()), Bystanders(), ignore
    )
    assert column.completed == 0
    assert "isn't an executable file" in (column.error or "")


def test_untrusted_results_do_not_reach_the_page_raw() -> None:
    column = summary.Column("CloveOS", 1, 2)
    bad = "<script>alert(1)</script>\x1b[2J"
    clove_column.take_results(
        column,
        [
            {
                "index": 1, "name": bad,
                "state": "done", "attempts": 2,
                "result": {"rmse": 0.5, "prediction_digest": bad},
                "certificates": [{"cause": bad, "message": bad, "started_ms": 1000, "ended_ms": 2000,
                                  "killed_by": {"kind": bad, "uid": bad, "command": bad}}],
            }
        ],
        0.0,
        {0: clove_cli.TaskChange(1, bad, "done", 2, None, None, 2000, 3000, 0.9)},
    )  # fmt: skip
    whole = summary.Summary(
        [{"target": "T", "model": "SVM"}],
        ["T-SVM"],
        victims.Victims(0, 0, 0),
        1,
        False,
        1 << 29,
        2,
        {},
        [column],
        None,
        column,
    )
    assert [(one.number, one.end == "done") for one in column.attempts] == [(1, False), (2, True)]
    page = report.html(whole)
    assert "<script" not in page
    assert "\x1b" not in page + table.comparison([column]) + "".join(report.killers(whole))
