"""The demo's tables as plain text, no wider than 100 characters."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from . import dataset
from .column import Column
from .summary import Summary
from .untrusted import for_terminal

WIDTH = 100


def align(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Rows with their cells padded and harmless to print; the last cell wraps within WIDTH."""
    rows = [[for_terminal(cell) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    lines = []
    for row in rows:
        cells = [cell.rjust(width) if flush else cell.ljust(width) for cell, width, flush in zip(row, widths, right)]
        wrapped = textwrap.wrap(row[-1], max(20, WIDTH - indent)) or [""]
        lines.append("  ".join([*cells, wrapped[0]]).rstrip())
        lines += [" " * indent + more for more in wrapped[1:]]
    return lines


def megabytes(count: int) -> str:
    """Bytes as whole MiB."""
    return f"{count / (1 << 20):.0f} MiB"


def comparison(columns: Sequence[Column]) -> str:
    """The ways of running, beside each other."""
    rows = [("run", "completed", "wall", "CPU", "CPU use", "peak MiB", "avail. fell", "what happened")]
    rows += [
        (
            column.name,
            f"{column.completed} of {column.total}",
            f"{column.wall_s:.1f} s",
            f"{column.cpu_s:.1f} s",
            f"{column.cpu_use:.0%}",
            f"{column.peak_bytes >> 20}",
            f"{column.available_fall_bytes >> 20}",
            column.what_happened,
        )
        for column in columns
    ]
    return "\n".join(align(rows, (False, True, True, True, True, True, True)))


def scores(summary: Summary) -> str:
    """RMSE of each target and model, ours and, behind it, the published one."""
    targets = list(dict.fromkeys(str(config["target"]) for config in summary.configs))
    place = {(config["target"], config["model"]): number for number, config in enumerate(summary.configs)}
    rows = [["target", *(f"{model} ours  publ." for model in dataset.MODELS), "best AUC"]]
    for target in targets:
        row, aucs = [target], []
        for model in dataset.MODELS:
            result = summary.scored.get(place[target, model], {})
            figure = summary.figures.get((target, model))
            ours = result.get("rmse")
            row.append(
                f"{'-' if ours is None else format(float(ours), '.3f')}  "
                f"{'    -' if figure is None else format(figure, '.3f')}"
            )
            if result.get("auc") is not None:
                aucs.append(float(result["auc"]))
        rows.append([*row, f"{max(aucs):.2f}" if aucs else "-"])
    return "\n".join(align(rows, (False, True, True, True, True)))
