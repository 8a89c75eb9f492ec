"""Writes the demo's report: one HTML file that opens offline, and a picture beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from . import clove_cli, dataset, memory_plot, score_plot, timeline_plot
from .environment import EnvironmentFailed
from .palette import FONT, drawing_rules, variables
from .summary import Summary
from .table import megabytes
from .untrusted import for_html, for_terminal

_RULES = (
    "*{box-sizing:border-box}"
    f"body{{margin:0;background:var(--bg);color:var(--text);font:15px/1.55 {FONT}}}"
    "main{max-width:1080px;margin:0 auto;padding:36px 28px 64px}"
    "h1{font-size:28px;line-height:1.25;margin:0 0 6px}h2{font-size:20px;margin:44px 0 6px}"
    "p{margin:6px 0 14px;max-width:86ch}.faint{color:var(--faint)}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:12px;margin:22px 0 8px}"
    ".tile{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:14px 16px}"
    ".tile b{display:block;font-size:25px;line-height:1.25;font-variant-numeric:tabular-nums}"
    ".tile span{color:var(--faint);font-size:13.5px}"
    ".wide{overflow-x:auto}.wide>svg{display:block;width:100%;min-width:760px;height:auto}"
    "table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}"
    "th,td{padding:7px 10px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}"
    "th{color:var(--faint);font-weight:600;white-space:nowrap}td.n,th.n{text-align:right;white-space:nowrap}"
    ".keep{white-space:nowrap}.bad{color:var(--death);font-weight:600}.ok{color:var(--good);font-weight:600}"
    "code{font-family:ui-monospace,'DejaVu Sans Mono',monospace;font-size:13px;overflow-wrap:anywhere}"
)


def write(summary: Summary, page: Path) -> Path:
    """Write both; the picture's path."""
    picture = page.with_suffix(".svg")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(html(summary), encoding="utf-8")
        picture.write_text(timeline_plot.draw(summary, standalone=True), encoding="utf-8")
    except OSError as error:
        raise EnvironmentFailed(
            f"can't write the report to {page}: {error.strerror}. Name another --report PATH."
        ) from error
    return picture


def html(summary: Summary) -> str:
    """The whole page."""
    body = [
        "<h1>CloveOS: drug-discovery experiments that survive</h1>",
        f'<p class="faint">{for_html(summary.last_line())}.</p>',
        _tiles(summary),
        "<h2>The same script, the same faults, the same memory cap</h2>",
        f"<p>{_explanation(summary)}</p>",
        f'<div class="wide">{_columns(summary)}</div>',
        "<h2>Who worked at what, and when</h2>",
        f'<div class="wide">{timeline_plot.draw(summary)}</div>',
        "<h2>Test error per target and model</h2>",
        "<p>Support vector machine, random forest, gradient boosting and nearest neighbours on fingerprints "
        f"(ECFP, radius {dataset.RADIUS}, {dataset.BITS} bits) of the molecules, with the published "
        "hyperparameters and the authors' own split. The forest and the boosting draw random numbers, and the "
        "published seed is unknown; nearest neighbours depend on the order of equal distances.</p>",
        f'<div class="wide">{score_plot.draw(summary)}</div>',
        "<h2>Memory over time</h2>",
        "<p>Proportional set size of all processes involved, added up ten times a second; for CloveOS that "
        "includes kernel, launcher, template and command line.</p>",
        f'<div class="wide">{memory_plot.draw(summary)}</div>',
        "<h2>Death certificates</h2>",
        _certificates(summary),
        "<h2>All results</h2>",
        f'<div class="wide">{_results(summary)}</div>',
    ]
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # A second wall behind the escaping: nothing in this page may run, load or send anything.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="color-scheme" content="light dark"><title>CloveOS: drug-discovery demo</title>'
        f"<style>{variables(':root')}{drawing_rules()}{_RULES}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def killers(summary: Summary) -> list[str]:
    """One line for each end by a hand, saying whose."""
    lines = []
    for certificate in summary.ours.certificates if summary.ours else ():
        who = clove_cli.killed_by(certificate)
        if who:
            lines.append(for_terminal(f"{certificate['name']}, attempt {certificate['attempt']}, was killed by {who}"))
    return lines


def _explanation(summary: Summary) -> str:
    return (
        f"Every process may have {megabytes(summary.memory_bytes)}: under CloveOS a limit on the whole "
        "agent, in plain Python "
        "RLIMIT_DATA, the strongest cap that it can give itself without root. "
        f"{summary.jobs} at a time. Victims, drawn with seed {summary.seed}: "
        + ", ".join(
            f"{for_html(kind)} #{position + 1} {for_html(summary.names[position])}"
            for kind, position in summary.victims._asdict().items()
        )
        + ". Wall time begins with the start of the interpreter. CPU use is the share of all cores."
        + (f" {summary.noise()}" if summary.noise() else "")
    )


def _tiles(summary: Summary) -> str:
    scores = summary.comparison()
    equal = summary.equal_digests()
    total = len(summary.configs)
    tiles = []
    if summary.ours is not None:
        deaths = len(summary.ours.certificates)
        tiles.append((f"{summary.ours.completed} of {total}", "experiments done under CloveOS"))
        tiles.append((f"{deaths} / {summary.retried()}", "deaths / tried again with success"))
    if summary.shuffled:
        auc = summary.median_auc()
        tiles.append(("-" if auc is None else f"{auc:.2f}", "median AUC with shuffled labels; 0.5 is chance"))
    elif scores.known:
        tiles.append((f"{scores.svm_equal} of {scores.svm_known}", "SVM equal to the published figure, three decimals"))
        tiles.append((f"{scores.within} of {scores.known}", "within 5 % of the published figure"))
    if equal is not None:
        tiles.append((f"{equal} of {total}", "predictions bit-equal to the unisolated run"))
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><b>{for_html(big)}</b><span>{for_html(small)}</span></div>' for big, small in tiles
        )
        + "</div>"
    )


def _table(head: Sequence[str], numeric: Iterable[int], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already."""
    flush = set(numeric)

    def cells(kind: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{kind}{' class=n' if place in flush else ''}>{cell}</{kind}>" for place, cell in enumerate(row)
        )

    return (
        f"<table><thead><tr>{cells('th', head)}</tr></thead><tbody>"
        + "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
        + "</tbody></table>"
    )


def _verdict(good: bool, words: str) -> str:
    return f'<span class="{"ok" if good else "bad"}">{for_html(words)}</span>'


def _columns(summary: Summary) -> str:
    rows = [
        (
            f'<b class="keep">{for_html(column.name)}</b>',
            _verdict(column.completed == column.total, f"{column.completed} of {column.total}"),
            f"{column.wall_s:.1f} s",
            f"{column.cpu_s:.1f} s",
            f"{column.cpu_use:.0%}",
            megabytes(column.peak_bytes),
            megabytes(column.available_fall_bytes),
            for_html(column.what_happened),
        )
        for column in summary.columns
    ]
    head = ("run", "completed", "wall", "CPU", "CPU use", "peak memory", "fall of MemAvailable", "what happened")
    return _table(head, range(1, 7), rows)


def _certificates(summary: Summary) -> str:
    if summary.ours is None or not summary.ours.certificates:
        return '<p class="faint">Nobody died.</p>'
    rows = []
    for one in summary.ours.certificates:
        usage = one.get("usage") or {}
        signal = one.get("signal")
        ended = f"signal {signal}" if signal is not None else f"exit {one.get('exit_code')}"
        peak = usage.get("peak_memory_bytes")
        rows.append(
            (
                for_html(one["name"]),
                for_html(one["attempt"]),
                f'<span class="bad">{for_html(one.get("cause"))}</span>',
                for_html(one.get("message") or ""),
                for_html(ended),
                megabytes(int(peak)) if peak is not None else "-",
                f"{clove_cli.spent_cpu_s(one):.2f} s",
                for_html(clove_cli.killed_by(one) or ""),
            )
        )
    head = ("experiment", "attempt", "cause", "message", "ended with", "peak memory", "CPU", "killed by")
    said = "".join(f"<p class=faint>{for_html(line)}</p>" for line in summary.bystanders)
    return f'<div class="wide">{_table(head, (1, 5, 6), rows)}</div>{said}'


def _results(summary: Summary) -> str:
    rows = []
    for position, name in enumerate(summary.names):
        result = summary.scored.get(position, {})
        config = summary.configs[position]
        figure = summary.figures.get((config["target"], config["model"]))
        ours = result.get("rmse")
        auc = result.get("auc")
        rows.append(
            (
                str(position + 1),
                for_html(name),
                "-" if ours is None else f"{float(ours):.4f}",
                "-" if figure is None else f"{figure:.4f}",
                "-" if ours is None or figure is None else f"{float(ours) / figure - 1:+.2%}",
                "-" if auc is None else f"{float(auc):.3f}",
                for_html(result.get("n_train", "-")),
                for_html(result.get("n_test", "-")),
                f"<code>{for_html(str(result.get('prediction_digest', '-'))[:12])}</code>",
            )
        )
    head = (
        "#",
        "experiment",
        "RMSE",
        "published",
        "difference",
        "AUC at pKi 7",
        "trained on",
        "tested on",
        "digest",
    )
    return _table(head, (0, 2, 3, 4, 5, 6, 7), rows)
