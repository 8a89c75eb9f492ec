"""The plot of memory over time, one line for each way of running."""

from __future__ import annotations

from . import drawing
from .column import Column
from .summary import Summary

_LEFT, _RIGHT, _TOP, _HEIGHT = 76, 24, 52, 260


def style(column: Column, summary: Summary) -> str:
    """The colour's name."""
    if column is summary.ours:
        return "clove"
    if column is summary.reference:
        return "calm"
    return "alone" if column.name == "sequential" else "pool"


def draw(summary: Summary) -> str:
    """Proportional set size of every process involved, added up."""
    columns = [column for column in summary.columns if column.samples]
    longest = max((column.samples[-1].at_s for column in columns), default=1.0) or 1.0
    highest = max((sample.pss_bytes for column in columns for sample in column.samples), default=1) / (1 << 20) or 1.0
    highest *= 1.06
    bottom = _TOP + _HEIGHT

    def across(seconds: float) -> float:
        return _LEFT + seconds / longest * (drawing.WIDTH - _LEFT - _RIGHT)

    def up(mebibytes: float) -> float:
        return bottom - mebibytes / highest * _HEIGHT

    parts = []
    for value in drawing.ticks(0, highest, 5):
        parts.append(drawing.line(_LEFT, up(value), drawing.WIDTH - _RIGHT, up(value), "grid"))
        parts.append(drawing.text(_LEFT - 8, up(value) + 4, f"{value:g}", "faint small", "end"))
    for value in drawing.ticks(0, longest, 8):
        parts.append(drawing.text(across(value), bottom + 18, f"{value:g} s", "faint small", "middle"))
    x = float(_LEFT)
    for column in columns:
        colour = style(column, summary)
        points = " ".join(f"{across(one.at_s):.1f},{up(one.pss_bytes / (1 << 20)):.1f}" for one in column.samples)
        parts.append(f'<polyline points="{points}" class="l-{colour}"/>')
        words = f"{column.name} (peak {column.peak_bytes / (1 << 20):.0f} MiB)"
        parts += [drawing.rectangle(x, 18, 12, 12, f"m-{colour}"), drawing.text(x + 18, 29, words, "small")]
        x += 34 + len(words) * 6.5
    parts.append(drawing.text(12, _TOP - 8, "MiB", "faint small"))
    return drawing.svg(parts, bottom + 30, "Memory over time")
