"""Draws with SVG elements as strings: every text goes through the escape for untrusted ones."""

from __future__ import annotations

import math

from .palette import drawing_rules, variables
from .untrusted import for_html

WIDTH = 1000


def text(x: float, y: float, words: object, classes: str = "", anchor: str = "start") -> str:
    """One line of text with its baseline at `y`."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}" text-anchor="{anchor}">{for_html(words)}</text>'


def rectangle(x: float, y: float, width: float, height: float, classes: str, tip: object = "") -> str:
    """A box; `tip` shows when the mouse rests on it."""
    title = f"<title>{for_html(tip)}</title>" if tip else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} class="{classes}">{title}</rect>'


def line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    """A straight stroke."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{classes}"/>'


def circle(x: float, y: float, radius: float, classes: str, tip: object = "") -> str:
    """A dot."""
    title = f"<title>{for_html(tip)}</title>" if tip else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="{classes}">{title}</circle>'


def arrowhead(x: float, y: float, classes: str) -> str:
    """A small triangle that points up to (x, y)."""
    return f'<path d="M{x:.1f} {y:.1f}l5 9h-10z" class="{classes}"/>'


def svg(parts: list[str], height: float, label: str, standalone: bool = False) -> str:
    """The picture; a standalone one carries its own colours and background."""
    head = ""
    if standalone:
        head = f"<style>{variables('svg')}{drawing_rules()}</style>"
        head += f'<rect width="{WIDTH}" height="{height:.0f}" class="back"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{for_html(label)}">{head}{"".join(parts)}</svg>'
    )


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers between two values, some `about` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / about
    power: float = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
