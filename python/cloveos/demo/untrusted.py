"""Escapes text that an experiment may have written before it reaches a terminal or a page."""

from __future__ import annotations

import html

from cloveos.errors import printable


def for_terminal(value: object) -> str:
    """One line of text in which every control, escape, direction-changing and invisible character is made visible."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in printable(str(value))
    )


def for_html(value: object) -> str:
    """The text for an HTML or SVG body or attribute, control characters made visible first."""
    return html.escape(for_terminal(value), quote=True)
