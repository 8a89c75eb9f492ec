"""Fixtures of the Python tests."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Iterator

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from fake_kernel import FakeKernel


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    """A fake kernel that this process's clients connect to."""
    with tempfile.TemporaryDirectory(prefix="ck") as folder:
        fake = FakeKernel(os.path.join(folder, "k.sock"))
        monkeypatch.setenv("CLOVE_SOCKET", fake.path)
        yield fake
        fake.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says each skip in the form that `scripts/test` looks for: one that isn't on its list fails the run."""
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.write_line(f"SKIPPED: {reason.removeprefix('Skipped: ')}")
