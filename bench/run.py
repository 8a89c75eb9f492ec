"""Runs benchmarks: `run.py [NAME...] [--quick] [--rounds N] [--json FILE] [--markdown FILE]`. See docs/benchmarks.md.

The tables go to standard output, what it is doing to standard error. The exit code is 0 whatever the figures are, 1
when a benchmark couldn't be carried out, 2 when the suite couldn't begin.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from pathlib import Path

import machine
from bench import Bench
from benchmarks import NAMES
from places import NotBuilt, Places
from report import Outcome, Report

ROUNDS = 3


def main() -> int:
    """Runs what the command line names, or everything."""
    options = _options()
    try:
        places = Places.found()
    except NotBuilt as e:
        print(f"bench: error: {e}", file=sys.stderr)
        return 2
    bench = Bench(places, options.quick, options.rounds or (1 if options.quick else ROUNDS))
    report = Report(
        machine.facts(places),
        machine.warnings(places, bench.quick),
        {"rounds": bench.rounds, "size": "quick" if bench.quick else "full"},
    )
    for warning in report.warnings:
        bench.say(f"warning: {warning}")
    for name in options.names or NAMES:
        report.outcomes.append(_carried_out(name, bench))
        # After each, so that a long run that is cut short leaves what it has.
        _write(report, options)
    sys.stdout.write(report.to_markdown())
    return 1 if report.broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="CloveOS's benchmarks; docs/benchmarks.md")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones; all when absent: {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="as small as possible, to see that they work")
    parser.add_argument("--rounds", type=int, help=f"rounds of ours and the peers in turns ({ROUNDS}; 1 when quick)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark is named {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds has to be 1 or more")
    return options


def _carried_out(name: str, bench: Bench) -> Outcome:
    module = importlib.import_module(f"benchmarks.{name}")
    outcome = Outcome(name, module.TITLE)
    bench.say(f"== {name}: {module.TITLE}")
    began = time.monotonic()
    try:
        outcome.rows = module.run(bench)
    except Exception as error:
        traceback.print_exc()
        outcome.broken = f"{type(error).__name__}: {error}"
    outcome.seconds = time.monotonic() - began
    return outcome


def _write(report: Report, options: argparse.Namespace) -> None:
    for path, text in (
        (options.json, json.dumps(report.to_json(), indent=1) + "\n"),
        (options.markdown, report.to_markdown()),
    ):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
