"""Writes what was found as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

from figures import Bound, Figure, Row


@dataclasses.dataclass
class Outcome:
    """One benchmark's rows, or why it broke."""

    name: str
    title: str
    seconds: float = 0.0
    rows: list[Row] = dataclasses.field(default_factory=list)
    broken: str = ""


@dataclasses.dataclass
class Report:
    """The whole run."""

    machine: dict[str, str]
    warnings: list[str]
    options: dict[str, Any]
    outcomes: list[Outcome] = dataclasses.field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """Names of the benchmarks that couldn't be carried out."""
        return [o.name for o in self.outcomes if o.broken]

    def to_json(self) -> dict[str, Any]:
        """Everything, each round's figure included."""
        return {
            "machine": self.machine,
            "warnings": self.warnings,
            "options": self.options,
            "benchmarks": [
                {
                    "name": o.name,
                    "title": o.title,
                    "seconds": round(o.seconds, 1),
                    "broken": o.broken or None,
                    "rows": [row.to_json() for row in o.rows],
                }
                for o in self.outcomes
            ],
        }

    def to_markdown(self) -> str:
        """One table for each benchmark; a miss is printed as one."""
        lines = ["# CloveOS benchmarks", ""]
        lines += [f"> **{warning}**" for warning in self.warnings]
        lines += ["", "| | |", "|---|---|"]
        lines += [f"| {key} | {_cell(value)} |" for key, value in self.machine.items()]
        lines += [f"| {key} | {_cell(str(value))} |" for key, value in self.options.items()]
        rows = [row for o in self.outcomes for row in o.rows if row.must is not None]
        missed = [row for row in rows if not row.reached]
        aims = [row for row in rows if row.aim is not None]
        lines += ["", f"{len(rows) - len(missed)} of {len(rows)} bounds that must be reached are; "
                  f"{sum(bool(row.reached_aim) for row in aims)} of {len(aims)} aims."]  # fmt: skip
        if self.broken:
            lines.append(f"Broken: {', '.join(self.broken)}.")
        for outcome in self.outcomes:
            lines += ["", f"## {outcome.name}: {outcome.title} ({outcome.seconds:.0f} s)", ""]
            if outcome.broken:
                lines += [f"**Broken:** {_cell(outcome.broken)}", ""]
            if outcome.rows:
                lines += ["| what | ours | peer | ratio | must | aim | reached |", "|---|---|---|---|---|---|---|"]
                lines += [_line(row) for row in outcome.rows]
                notes = [f"- {_cell(row.what)}: {_cell(row.note)}" for row in outcome.rows if row.note]
                lines += ["", *notes] if notes else []
        return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    peer = f"{row.peer_name}: {_figure(row.peer, row.unit)}" if row.peer else "-"
    ratio = "-"
    if row.ratio is not None:
        spread = row.ratio_spread
        several = spread is not None and row.ours is not None and len(row.ours.rounds) > 1
        ratio = f"{row.ratio:.2f}" + (f" ({spread[0]:.2f} to {spread[1]:.2f})" if spread and several else "")
    cells = (
        _cell(row.what), _figure(row.ours, row.unit), peer, ratio,
        _bound(row.must, row), _bound(row.aim, row), _reached(row),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _reached(row: Row) -> str:
    if row.reached is None:
        return "-"
    if not row.reached:
        return "**no**"
    return {None: "yes", True: "yes, and the aim", False: "yes, not the aim"}[row.reached_aim]


def _bound(bound: Optional[Bound], row: Row) -> str:
    if bound is None:
        return "-"
    sign = {"<=": "≤", ">=": "≥", "==": "="}[bound.op]
    return f"{sign} {bound.limit:g} x" if row.judged == "ratio" else f"{sign} {bound.limit:g} {row.unit}".rstrip()


def _figure(figure: Optional[Figure], unit: str) -> str:
    if figure is None:
        return "-"
    text = f"{_number(figure.median)} {unit}".rstrip()
    if len(figure.rounds) > 1:
        text += f" ({_number(figure.least)} to {_number(figure.most)})"
    return text


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value)}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
