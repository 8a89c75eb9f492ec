"""The colours of page and pictures, in a light and a dark set."""

from __future__ import annotations

# Model hues after Okabe and Ito (2008), which colour-blind readers can tell apart, darkened or lightened
# so that each stands out from its background.
_LIGHT = {
    "bg": "#ffffff",
    "panel": "#f6f7f9",
    "text": "#1b1f24",
    "faint": "#5b6570",
    "line": "#d9dde2",
    "svm": "#0072b2",
    "rf": "#008a63",
    "gbm": "#b87a00",
    "knn": "#b0598a",
    "death": "#c62828",
    "good": "#1a7f37",
    "clove": "#0072b2",
    "pool": "#c75300",
    "calm": "#8a6fb0",
    "alone": "#5b6570",
}
_DARK = {
    "bg": "#14171b",
    "panel": "#1d2127",
    "text": "#e8eaed",
    "faint": "#9aa4af",
    "line": "#363c44",
    "svm": "#56b4e9",
    "rf": "#2fbf92",
    "gbm": "#e6a532",
    "knn": "#dd8fbb",
    "death": "#ff6b60",
    "good": "#4ac26b",
    "clove": "#56b4e9",
    "pool": "#f08a4b",
    "calm": "#b39ddb",
    "alone": "#9aa4af",
}

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def _block(selector: str, colours: dict[str, str]) -> str:
    return selector + "{" + "".join(f"--{name}:{value};" for name, value in colours.items()) + "}"


def variables(selector: str) -> str:
    """The colours as CSS variables of `selector`, following what the reader's system prefers."""
    return _block(selector, _LIGHT) + "@media (prefers-color-scheme: dark){" + _block(selector, _DARK) + "}"


def drawing_rules() -> str:
    """The CSS rules that all pictures share."""
    models = "".join(f".m-{name}{{fill:var(--{name})}}"
                     f".l-{name}{{stroke:var(--{name});fill:none;stroke-width:1.8}}"
                     for name in ("svm", "rf", "gbm", "knn", "clove", "pool", "calm", "alone"))  # fmt: skip
    return (
        f"text{{font-family:{FONT};font-size:13px;fill:var(--text)}}"
        ".faint{fill:var(--faint)}.small{font-size:11.5px}.strong{font-weight:650}.title{font-size:18px;font-weight:650}"
        ".grid{stroke:var(--line);stroke-width:1}.lane{fill:var(--panel)}"
        ".rule{stroke:var(--faint);stroke-dasharray:4 4}"
        ".death{fill:var(--death)}.deathline{stroke:var(--death);stroke-width:1.6}.good{fill:var(--good)}"
        ".published{stroke:var(--text);stroke-width:2}.retry{stroke:var(--text);stroke-width:1.6}"
        ".again{fill:var(--text);stroke:var(--panel);stroke-width:1}"
        ".back{fill:var(--bg)}" + models
    )
