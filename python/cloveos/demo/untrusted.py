"""Escapes text that an experiment may have written before it reaches a terminal or a page."""

from __future__ import annotations

import html


def for_terminal(value: object) -> str:
    """The text with every control, escape and direction-changing character made visible."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(value)
    )


def for_html(value: object) -> str:
    """The text for an HTML or SVG body or attribute, control characters made visible first."""
    return html.escape(for_terminal(value), quote=True)
