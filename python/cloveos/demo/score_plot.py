"""The plot of test errors: one dot per target and model, a tick where the published figure is."""

from __future__ import annotations

from . import dataset, drawing
from .summary import Summary

_LEFT, _RIGHT, _TOP = 150, 24, 56
_SUBLANE, _GAP = 13, 10


def draw(summary: Summary) -> str:
    """The picture, as high as there are targets."""
    targets = list(dict.fromkeys(str(config["target"]) for config in summary.configs))
    points = []
    for position, config in enumerate(summary.configs):
        result = summary.scored.get(position)
        figure = summary.figures.get((config["target"], config["model"]))
        ours = float(result["rmse"]) if result and result.get("rmse") is not None else None
        points.append((str(config["target"]), str(config["model"]), ours, figure))
    values = [value for point in points for value in point[2:] if value is not None] or [0.0, 1.0]
    low, high = min(values) - 0.04, max(values) + 0.04
    row = _SUBLANE * len(dataset.MODELS) + _GAP
    bottom = _TOP + row * len(targets)

    def across(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (drawing.WIDTH - _LEFT - _RIGHT)

    parts = _legend(bool(summary.figures))
    for number, target in enumerate(targets):
        top = _TOP + number * row
        if number % 2 == 0:
            parts.append(drawing.rectangle(0, top, drawing.WIDTH, row, "lane"))
        parts.append(drawing.text(12, top + row / 2 + 4, target))
    for value in drawing.ticks(low, high, 8):
        parts.append(drawing.line(across(value), _TOP, across(value), bottom, "grid"))
        parts.append(drawing.text(across(value), bottom + 18, f"{value:g}", "faint small", "middle"))
    for target, model, ours, figure in points:
        y = _TOP + targets.index(target) * row + _GAP / 2 + (dataset.MODELS.index(model) + 0.5) * _SUBLANE
        tip = f"{target} {model}: ours {'missing' if ours is None else format(ours, '.4f')}"
        if figure is not None:
            tip += f", published {figure:.4f}"
            parts.append(drawing.line(across(figure), y - 5.5, across(figure), y + 5.5, "published"))
        if ours is not None:
            parts.append(drawing.circle(across(ours), y, 4.4, f"m-{model.lower()}", tip))
    middle = (_LEFT + drawing.WIDTH - _RIGHT) / 2
    parts.append(
        drawing.text(middle, bottom + 40, "RMSE on the test molecules (log units; less is better)", "faint", "middle")
    )
    return drawing.svg(parts, bottom + 52, "Test error of each target and model beside the published figure")


def _legend(published: bool) -> list[str]:
    parts, x = [], float(_LEFT)
    for model in dataset.MODELS:
        parts += [drawing.circle(x, 26, 5, f"m-{model.lower()}"), drawing.text(x + 11, 30.5, model)]
        x += 76
    if published:
        parts += [drawing.line(x + 8, 19, x + 8, 33, "published"), drawing.text(x + 18, 30.5, "published")]
    return parts
