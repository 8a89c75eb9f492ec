"""A live grid of all experiments on the terminal, for an audience that may kill one of them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from . import clove_cli, dataset
from .untrusted import for_terminal

GLYPHS = {
    "pending": ("·", "2"),
    "running": ("▶", "36"),
    "done": ("✔", "32"),
    "backoff": ("↻", "33"),
    "failed": ("✘", "31"),
    "quarantined": ("■", "31"),
}
PLAIN = {"pending": ".", "running": ">", "done": "+", "backoff": "~", "failed": "x", "quarantined": "#"}


def wants_colour(stream: TextIO) -> bool:
    """Whether escapes may be written: a terminal that isn't dumb, and nobody has said NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def can_redraw(stream: TextIO) -> bool:
    """Whether the cursor may be moved; NO_COLOR asks for no colours, not for no cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Progress:
    """One line that counts, redrawn on a terminal; elsewhere one line for every quarter."""

    wants_results = False

    def __init__(self, names: Sequence[str], stream: TextIO = sys.stderr) -> None:
        self._names = names
        self._stream = stream
        self._redraw = can_redraw(stream)
        self._done = 0
        self._open = False
        self._quarter = 0

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def count(self, text: str, done: int, total: int) -> None:
        """A line that the next one replaces."""
        if self._redraw:
            print(f"\r\x1b[2K{text}", end="", file=self._stream, flush=True)
            self._open = True
        elif done * 4 // total > self._quarter:
            self._quarter = done * 4 // total
            print(text, file=self._stream, flush=True)
        if done == total:
            self._quarter = 0

    def change(self, position: int, event: Mapping[str, Any]) -> None:
        """A task of the sweep has changed its state."""
        state = event.get("state")
        if state == "done":
            self._done += 1
            self.count(f"CloveOS: {self._done} of {len(self._names)}", self._done, len(self._names))
        elif state in ("backoff", "failed", "quarantined"):
            self.say("  " + death(self._names[position], event))

    def close(self) -> None:
        """The run is over."""
        self._clear()

    def _clear(self) -> None:
        if self._open:
            print("\r\x1b[2K", end="", file=self._stream)
            self._open = False


def death(name: str, event: Mapping[str, Any]) -> str:
    """One line about an end that wasn't good."""
    certificate = event.get("certificate") or {}
    words = [f"{name}, attempt {event.get('attempt', '?')}: {clove_cli.end_word(certificate)}"]
    if certificate.get("message"):
        words.append(for_terminal(certificate["message"]))
    who = clove_cli.killed_by(certificate)
    if who:
        words.append(f"killed by {who}")
    words.append("will be tried again" if event.get("state") == "backoff" else str(event.get("state")))
    return for_terminal("; ".join(words))


class Grid:
    """The experiments, a row for each target, redrawn in place at most ten times a second."""

    wants_results = True

    def __init__(
        self,
        names: Sequence[str],
        configs: Sequence[Mapping[str, Any]],
        suggested: int,
        grace_s: float,
        stream: TextIO = sys.stderr,
    ) -> None:
        self._names = names
        self._stream = stream
        self._colour = wants_colour(stream)
        self._redraw = can_redraw(stream)
        self._suggested = suggested
        self._grace_s = grace_s
        self._targets = list(dict.fromkeys(str(config["target"]) for config in configs))
        self._place = {(str(one["target"]), str(one["model"])): number for number, one in enumerate(configs)}
        self._states: dict[int, str] = {}
        self._attempts: dict[int, int] = {}
        self._scores: dict[int, float | None] = {}
        self._log: list[str] = []
        self._drawn = 0
        self._drawn_at = 0.0
        if not self._redraw:
            print(self._invitation(), file=self._stream, flush=True)

    def say(self, text: str) -> None:
        """A line that stays, above the grid."""
        self._erase()
        print(text, file=self._stream, flush=True)

    def change(self, position: int, event: Mapping[str, Any]) -> None:
        """A task has changed its state."""
        state = str(event.get("state"))
        self._states[position] = state
        self._attempts[position] = int(event.get("attempt") or 1)
        result = event.get("result")
        if isinstance(result, Mapping) and isinstance(result.get("rmse"), (int, float)):
            self._scores[position] = float(result["rmse"])
        if state in ("backoff", "failed", "quarantined"):
            self._log.append(death(self._names[position], event))
            if not self._redraw:
                print(f"  {self._log[-1]}", file=self._stream, flush=True)
        if self._redraw and (time.monotonic() - self._drawn_at > 0.1 or state != "running"):
            self._draw()

    def close(self) -> None:
        """The run is over: the grid stays as it is."""
        if self._redraw:
            self._draw()
            self._drawn = 0

    def lines(self) -> list[str]:
        """The grid as it would be drawn now."""
        width = max(len(target) for target in self._targets)
        out = [f"{'':{width}}  " + "  ".join(f"{model:<11}" for model in dataset.MODELS)]
        for target in self._targets:
            cells = [self._cell(self._place[target, model]) for model in dataset.MODELS]
            out.append(f"{target:<{width}}  " + "  ".join(cells))
        counts = [sum(1 for one in self._states.values() if one == state) for state in ("done", "running", "backoff")]
        out.append("")
        out.append(
            f"{counts[0]} of {len(self._names)} done, {counts[1]} running, {counts[2]} waiting to be tried again"
        )
        out += [f"  {line}" for line in self._log[-4:]]
        out += ["", self._invitation()]
        return out

    def _invitation(self) -> str:
        name = self._names[self._suggested]
        return (
            f"Kill any of them from another terminal:  clove kill {name}\n({name} waits {self._grace_s:.0f} s for it.)"
        )

    def _cell(self, position: int) -> str:
        state = self._states.get(position, "pending")
        glyph, colour = GLYPHS.get(state, ("?", "31")) if self._colour else (PLAIN.get(state, "?"), "")
        score = self._scores.get(position)
        again = self._attempts.get(position, 1)
        words = f"{score:.3f}" if score is not None else "" if state in ("pending", "done") else state[:7]
        mark = f" x{again}" if again > 1 else ""
        body = f"{glyph} {words}{mark}"[:11].ljust(11)
        return f"\x1b[{colour}m{body}\x1b[0m" if colour else body

    def _erase(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}A\x1b[J", end="", file=self._stream)
            self._drawn = 0

    def _draw(self) -> None:
        self._erase()
        text = "\n".join(self.lines())
        print(text, file=self._stream, flush=True)
        self._drawn = text.count("\n") + 1
        self._drawn_at = time.monotonic()
