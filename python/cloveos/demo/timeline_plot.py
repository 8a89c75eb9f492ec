"""The timeline: which experiment each lane was working at, when it died, when it was tried again."""

from __future__ import annotations

from . import dataset, drawing
from .column import Attempt
from .summary import Summary
from .untrusted import for_terminal

_LEFT, _RIGHT = 16, 22
_LANE, _LANE_GAP, _HEAD, _MARKS, _BLOCK_GAP = 24, 4, 30, 17, 26
_WORDS = {"oom": "out of memory", "SIGSEGV": "segfault", "kill": "killed by hand", "killed": "killed by hand"}


def draw(summary: Summary, standalone: bool = False) -> str:
    """All columns with faults below each other, on one scale of time."""
    columns = [column for column in summary.columns if column is not summary.reference]
    longest = max((column.wall_s for column in columns), default=1.0) or 1.0
    width = drawing.WIDTH - _LEFT - _RIGHT

    def across(seconds: float) -> float:
        return _LEFT + min(seconds, longest) / longest * width

    parts = []
    y = 14.0
    if standalone:
        title = f"{len(summary.configs)} drug-discovery experiments, three of them broken on purpose"
        parts.append(drawing.text(_LEFT, 30, title, "title"))
        y = 48.0
    parts += _legend(y)
    y += 34
    begun = y
    blocks: list[str] = []
    for column in columns:
        y += _HEAD
        whole = column.completed == column.total
        blocks.append(drawing.text(_LEFT, y - 9, column.name, "strong"))
        told = f"{column.completed} of {column.total} completed"
        blocks.append(drawing.text(_LEFT + 104, y - 9, told, f"strong {'good' if whole else 'death'}"))
        blocks.append(drawing.text(_LEFT + 120 + 8.2 * len(told), y - 9, _short(column.what_happened), "faint small"))
        deaths = [one for one in column.attempts if one.end != "done"]
        rows = _label_rows(deaths, across)
        y += _MARKS * (1 + max(rows, default=-1))
        lanes = 1 + max((attempt.lane for attempt in column.attempts), default=0)
        for lane in range(lanes):
            blocks.append(drawing.rectangle(_LEFT, y + lane * (_LANE + _LANE_GAP), width, _LANE, "lane"))
        for attempt in column.attempts:
            blocks.append(_bar(attempt, summary, across, y))
        blocks += [_again(attempt, across, y) for attempt in column.attempts if attempt.number > 1]
        for death, row in zip(deaths, rows):
            blocks += _mark(death, across, y, y - _MARKS * row - 5)
        height = lanes * (_LANE + _LANE_GAP) - _LANE_GAP
        if column.wall_s < longest * 0.995 and column.attempts:
            end = across(column.wall_s)
            blocks.append(drawing.line(end, y - 2, end, y + height + 2, "rule"))
            blocks.append(drawing.text(end + 8, y + height / 2 + 4, f"over after {column.wall_s:.0f} s", "faint small"))
        y += height + _BLOCK_GAP
    for value in drawing.ticks(0, longest, 8):
        parts.append(drawing.line(across(value), begun + 8, across(value), y - 8, "grid"))
        anchor = "middle" if value else "start"
        parts.append(drawing.text(across(value), y + 8, f"{value:g} s", "faint small", anchor))
    return drawing.svg(parts + blocks, y + 22, "Timeline of the experiments by lane", standalone)


def _legend(y: float) -> list[str]:
    parts, x = [], float(_LEFT)
    for model in dataset.MODELS:
        parts += [drawing.rectangle(x, y, 12, 12, f"m-{model.lower()}"), drawing.text(x + 18, y + 11, model)]
        x += 72
    parts += [drawing.rectangle(x, y, 12, 12, "death"), drawing.text(x + 18, y + 11, "died")]
    x += 72
    parts += [
        drawing.rectangle(x, y, 12, 12, "m-svm retry"),
        drawing.arrowhead(x + 6, y + 9, "again"),
        drawing.text(x + 18, y + 11, "tried again"),
    ]
    parts.append(drawing.text(drawing.WIDTH - _RIGHT, y + 11, "a lane is a process slot", "faint small", "end"))
    return parts


def _bar(attempt: Attempt, summary: Summary, across: object, top: float) -> str:
    assert callable(across)
    config = summary.configs[attempt.position]
    left, right = across(attempt.started_s), across(attempt.ended_s)
    classes = f"m-{str(config['model']).lower()}" if attempt.end == "done" else "death"
    if attempt.number > 1:
        classes += " retry"
    name = summary.names[attempt.position]
    tip = (
        f"#{attempt.position + 1} {name}, attempt {attempt.number}: {attempt.end}, "
        f"{attempt.started_s:.2f} s to {attempt.ended_s:.2f} s"
    )
    y = top + attempt.lane * (_LANE + _LANE_GAP)
    # A hair's gap between neighbours, unless the bar is itself no wider than a hair.
    return drawing.rectangle(left, y + 2, max(1.4, right - left - 0.8), _LANE - 4, classes, tip)


def _again(attempt: Attempt, across: object, top: float) -> str:
    """A mark below a repetition, which may be a bar no wider than a hair."""
    assert callable(across)
    middle = (across(attempt.started_s) + across(attempt.ended_s)) / 2
    return drawing.arrowhead(middle, top + attempt.lane * (_LANE + _LANE_GAP) + _LANE - 6, "again")


def _spoken(attempt: Attempt) -> str:
    return f"#{attempt.position + 1} {for_terminal(_WORDS.get(attempt.end, attempt.end))}"


def _label_rows(deaths: list[Attempt], across: object) -> list[int]:
    """For each death the row, from 0 upwards, in which its label hits no other one.

    The last death gets the lowest row, so that no stroke goes up through another label.
    """
    assert callable(across)
    taken: dict[int, list[tuple[float, float]]] = {}
    rows = {}
    for death in sorted(deaths, key=lambda one: -one.ended_s):
        width = len(_spoken(death)) * 6.6 + 14
        left = min(across(death.ended_s) - 4, drawing.WIDTH - _RIGHT - width)
        row = 0
        while any(left < other_right and other_left < left + width for other_left, other_right in taken.get(row, ())):
            row += 1
        taken.setdefault(row, []).append((left, left + width))
        rows[id(death)] = row
    return [rows[id(death)] for death in deaths]


def _mark(death: Attempt, across: object, lanes_top: float, baseline: float) -> list[str]:
    """A cross where it died, a stroke up to its label."""
    assert callable(across)
    x = across(death.ended_s)
    y = lanes_top + death.lane * (_LANE + _LANE_GAP) + _LANE / 2
    words = _spoken(death)
    left = min(x + 2, drawing.WIDTH - _RIGHT - len(words) * 6.6)
    return [
        drawing.line(x, baseline - 8, x, y, "deathline"),
        drawing.line(x - 4, y - 4, x + 4, y + 4, "deathline"),
        drawing.line(x - 4, y + 4, x + 4, y - 4, "deathline"),
        drawing.text(left + 2, baseline, words, "death small"),
    ]


def _short(words: str, limit: int = 104) -> str:
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"
