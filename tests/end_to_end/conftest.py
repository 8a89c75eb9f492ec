"""Fixtures of the end-to-end tests: each test has a kernel of its own, and leaves nothing behind."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from pathlib import Path
from typing import Iterator

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import house as _house

_numbers = itertools.count()

#: The long loops.
HEAVY = os.environ.get("CLOVE_HEAVY") == "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.call_passed = report.passed
    return report


@pytest.fixture
def house(request: pytest.FixtureRequest) -> Iterator[_house.House]:
    """A data directory and a folder to work in; afterwards the journal agrees with the state, and all is gone."""
    folder = _house.new_folder(next(_numbers))
    h = _house.House(folder)
    yield h
    try:
        h.close()
        if (h.home / "journal").exists():
            h.check()
    finally:
        ended = h.clove("stop", "--force") if h.home.exists() else None
        left = None
        try:
            if ended is not None:
                assert ended.code == 0, f"clove stop --force\n{ended}\n{h.kernel_log()}"
            h.prove_empty()
        except AssertionError as e:
            left = e
        h.close()
        if left is not None:
            h.kill_everything()
            raise left
        if getattr(request.node, "call_passed", True):
            shutil.rmtree(folder, ignore_errors=True)


def pytest_terminal_summary(terminalreporter) -> None:
    """One line for each skip, which `scripts/test` compares with the list of those allowed."""
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.write_line("SKIPPED: " + reason.removeprefix("Skipped: "))
