"""Nothing of the corpus of hostile words and results does any harm in the library or the demo's report."""

from __future__ import annotations

import html.parser
import importlib.util
import io
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "end_to_end"))

from hostile_words import IGNORABLE, PICKLES, WORDS, Word, assert_harmless, hostile_in, words

import cloveos
from cloveos import AgentDied, Certificate, SysError, UntrustedResult, _results, errors
from cloveos._outcome import outcome_of
from cloveos.demo import report, table, untrusted
from cloveos.demo.column import Attempt, Column
from cloveos.demo.dataset import MODELS
from cloveos.demo.present import Grid, Progress
from cloveos.demo.summary import Summary
from cloveos.demo.victims import Victims

FOLDER = str(Path(cloveos.__file__).resolve().parent.parent)


def test_the_corpus_is_what_it_says() -> None:
    assert len(WORDS) > 90
    assert len({w.name for w in WORDS}) == len(WORDS)
    for kind in ("terminal", "invisible"):
        assert all(hostile_in(w.text, "") for w in words(kind)), kind
    for kind in ("as-is", "markup"):
        assert not any(hostile_in(w.text) for w in words(kind)), kind
    assert all(w.meaning for w in WORDS)


@pytest.mark.parametrize("word", WORDS, ids=lambda w: w.name)
def test_everything_is_printable(word: Word) -> None:
    shown = errors.printable(word.text)
    assert_harmless(word.name, shown, "\n\t")
    if word.kind in ("as-is", "markup"):
        assert shown == word.text
    assert_harmless(word.name, untrusted.for_terminal(word.text), "")
    # Whether it stands in an element or in an attribute with quotes of either kind.
    assert not set("<>\"'") & set(untrusted.for_html(word.text))


# ------------------------------------------------------------------------------------------------ results


def test_no_pickle_of_the_corpus_executes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    executed = tmp_path / "executed"
    for one in PICKLES:
        if one.bomb or one.shown:
            continue
        with pytest.raises(UntrustedResult) as refused:
            _results.loads(one.data)
        assert not executed.exists(), one.name
        assert_harmless(one.name, str(refused.value))


def test_the_same_pickles_execute_without_us(tmp_path: Path) -> None:
    """The positive control, in a process of its own; it tells of each whether the file was made."""
    program = """if True:
        import os, pickle, sys
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        data = sys.stdin.buffer.read()
        while data:
            length, data = int.from_bytes(data[:8], "little"), data[8:]
            one, data = data[:length], data[length:]
            try:
                loaded = pickle.Unpickler(__import__("io").BytesIO(one))
                loaded.load()
                loaded.load()  # what follows the first
            except BaseException:
                pass
            for _ in range(500):
                if os.path.exists("executed"): break
                if b"Popen" not in one: break
                __import__("time").sleep(0.01)
            made = os.path.exists("executed")
            if made: os.remove("executed")
            sys.stderr.write("y" if made else "n")
    """
    chosen = [p for p in PICKLES if p.executes is True or (p.executes and importlib.util.find_spec(str(p.executes)))]
    assert len(chosen) > 25
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        input=b"".join(len(p.data).to_bytes(8, "little") + p.data for p in chosen),
        stderr=subprocess.PIPE, cwd=tmp_path, env={**os.environ, "PYTHONPATH": FOLDER}, check=False, timeout=60,
    )  # fmt: skip
    tame = [p.name for p, made in zip(chosen, done.stderr.decode()) if made != "y"]
    assert len(done.stderr) == len(chosen), done.stderr
    # numpy moves its helpers about; those that execute with it are a bonus.
    assert [name for name in tame if not name.startswith("numpy")] == []


def test_bombs_end_soon_and_small() -> None:
    """In a process that has 512 MiB to itself, and no time to lose."""
    program = """if True:
        import resource, sys, time
        from cloveos import UntrustedResult, _results
        data = sys.stdin.buffer.read()
        resource.setrlimit(resource.RLIMIT_DATA, (512 << 20, 512 << 20))
        while data:
            length, data = int.from_bytes(data[:8], "little"), data[8:]
            one, data = data[:length], data[length:]
            started = time.process_time()
            try:
                _results.loads(one)
                word = "taken"
            except UntrustedResult:
                word = "refused"
            print(word, round(time.process_time() - started, 1), flush=True)
    """
    bombs = [p for p in PICKLES if p.bomb]
    assert len(bombs) >= 10
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=b"".join(len(p.data).to_bytes(8, "little") + p.data for p in bombs),
        capture_output=True, env={**os.environ, "PYTHONPATH": FOLDER}, check=False, timeout=120,
    )  # fmt: skip
    said = done.stdout.decode().split("\n")[:-1]
    assert done.returncode == 0, f"{bombs[len(said)].name} ended it: {done.stderr.decode()[-500:]}"
    for bomb, line in zip(bombs, said):
        word, seconds = line.split()
        assert word == ("taken" if bomb.bomb == "loads" else "refused"), (bomb.name, line)
        assert float(seconds) < 10, (bomb.name, line)


def everything_shown(error: BaseException) -> str:
    """All the ways in which Python prints an exception."""
    out = io.StringIO()
    traceback.print_exception(type(error), error, error.__traceback__, file=out)
    return "\n".join(
        [str(error), repr(error), out.getvalue(), "".join(traceback.format_exception_only(type(error), error))]
    )


def test_exceptions_from_agents_print_harmlessly() -> None:
    for one in (p for p in PICKLES if p.shown):
        error = _results.loads(one.data)
        assert isinstance(error, Exception)
        assert_harmless(one.name, everything_shown(error), "\n\t")
    for word in words():
        w = word.text
        made: List[BaseException] = [
            ValueError(w), ValueError(w, w), KeyError(w), OSError(2, w, w), OSError(w), ImportError(w), StopIteration(w),
            SyntaxError(w, (w, 1, 1, w)), SyntaxError(w), RuntimeError((w, [w])), UnicodeDecodeError(w.replace("\0", ""), b"\xff", 0, 1, w),
            UnicodeEncodeError(w.replace("\0", ""), "x" + w, 0, 1, w), UnicodeTranslateError("x" + w, 0, 1, w), AssertionError([w]), SystemError(w),
        ]  # fmt: skip
        for error in made:
            back = _results.loads(_results.dumps(error))
            assert type(back) is type(error)
            shown = everything_shown(back)
            # What Python shows by its repr may hold letters that show nothing.
            if word.kind == "invisible":
                shown = IGNORABLE.sub("", shown)
            assert_harmless(f"{word.name} in {type(error).__name__}", shown, "\n\t")
    # Positive control: without us they aren't harmless.
    assert hostile_in(everything_shown(ValueError(words("terminal")[0].text)))
    plain = ValueError("grün\n\tx", 1, ("y",), ["\x1b"])
    assert _results.loads(_results.dumps(plain)).args == plain.args


def test_what_the_kernel_tells_of_a_task_prints_harmlessly() -> None:
    for word in words():
        w = word.text
        raised = {"class": w, "message": w, "traceback": w}
        certificate = {
            "agent": "a1.1", "name": w, "cause": "oom", "message": w, "suggestion": w, "tail": f"x\n{w}", "killed_by": {"kind": w, "command": w},
            "missing_walls": [w], "usage": {},
        }  # fmt: skip
        for info in (
            {"state": "failed", "exception": raised},
            {"state": "failed", "certificates": [certificate]},
            {"state": w},
        ):
            error = outcome_of(info, b"", False).error
            assert error is not None
            assert_harmless(
                f"{word.name} in {type(error).__name__}", everything_shown(error).replace(repr(error), ""), "\n\t"
            )
        for wrong in (
            SysError("E0603", w, w),
            UntrustedResult(w),
            cloveos.CloveError(w),
            cloveos.ConnectionLost(w),
            AgentDied(w),
        ):
            assert_harmless(f"{word.name} in {type(wrong).__name__}", str(wrong), "\n\t")
        assert Certificate.from_dict(certificate).message == w


def test_a_fraction_may_not_take_hours() -> None:
    long = (1 << 4_000_000) - 1
    started = time.process_time()
    with pytest.raises(UntrustedResult, match="grow far beyond"):
        _results.loads(_results.dumps([_reduced(long, long - 2)]))
    assert time.process_time() - started < 5
    import fractions

    ordinary = [fractions.Fraction(3**200, 7**150), fractions.Fraction(-1, 3)]
    assert _results.loads(_results.dumps(ordinary)) == ordinary


class _reduced:
    """Pickles as the fraction that it isn't, as taking its common divisor would take too long here too."""

    def __init__(self, *parts: int) -> None:
        self.parts = parts


@pytest.fixture(autouse=True)
def _reduce_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_results._REDUCERS, _reduced, lambda v: (_results._make("fraction"), v.parts))


# ------------------------------------------------------------------------------------------------ the demo's report


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: its elements with their attributes."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: List[Tuple[str, Tuple[Tuple[str, Optional[str]], ...]]] = []
        self.text: List[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, tuple(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:100]}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data[:100]}")


#: All that a page with harmless words is made of.
TAGS = {"html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "div", "b", "span", "table", "thead", "tbody",
        "tr", "th", "td", "code", "svg", "text", "rect", "line", "circle", "path", "g", "polyline"}  # fmt: skip


def summary_with(word: str) -> Summary:
    """A demo in which everything that an experiment, a certificate or a host could say is this word."""
    configs = [{"target": "t", "model": model} for model in ("SVM", "RF", "GBM", "KNN")]
    names = [f"{i}{word}" for i in range(4)]
    certificate = {
        "name": word, "attempt": 1, "position": 0, "cause": word, "message": word, "exit_code": word, "signal": None,
        "killed_by": {"kind": word, "command": word, "pid": word, "uid": word}, "usage": {"peak_memory_bytes": 1 << 20},
    }  # fmt: skip
    results: Dict[int, Dict[str, Any]] = {
        i: {"rmse": 0.5, "auc": 0.6, "n_train": word, "n_test": word, "prediction_digest": word, "seconds": 0.1}
        for i in range(4)
    }
    attempts = [Attempt(0, 1, 0.0, 0.5, word), Attempt(0, 2, 0.6, 0.9, "done"), Attempt(1, 1, 1.0, 1.5, word)]
    column = Column(
        name=word, total=4, cores=2, results=results, attempts=attempts, certificates=[certificate], wall_s=2.0, cpu_s=1.0,
        what_happened=word, error=None, samples=[],
    )  # fmt: skip
    return Summary(configs, names, Victims(0, 1, 2), 7, False, 1 << 30, 2, {}, [column], None, column, [word])


def parsed(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    return page


def shape(page: Page) -> Set[Tuple[str, Tuple[str, ...]]]:
    """Which elements, with which names of attributes."""
    return {(tag, tuple(name for name, _ in attributes)) for tag, attributes in page.elements}


def test_the_report_and_its_picture_hold_no_markup_of_others() -> None:
    control = parsed(report.html(summary_with("harmless")))
    assert {tag for tag, _ in control.elements} <= TAGS
    for word in words():
        summary = summary_with(word.text)
        text = report.html(summary)
        assert_harmless(word.name, text)
        page = parsed(text)
        assert shape(page) == shape(control), word.name
        assert len(page.elements) == len(control.elements), word.name
        if word.kind in ("markup", "as-is"):
            assert word.text in "".join(page.text), f"{word.name} must be shown as text"
        picture = report.timeline_plot.draw(summary, standalone=True)
        assert_harmless(word.name, picture)
        ElementTree.fromstring(picture)
        assert_harmless(word.name, table.comparison(summary.columns))
        assert_harmless(word.name, "\n".join(report.killers(summary)))
    # Positive control: the same eyes see markup where there is some.
    broken = parsed(report.html(summary_with("MARK")).replace("MARK", "<img src=x onerror=alert(1)>"))
    assert shape(broken) != shape(control)


def test_the_report_forbids_all_programs() -> None:
    text = report.html(summary_with("x"))
    assert "Content-Security-Policy" in text
    assert "default-src 'none'" in text
    assert "<script" not in text


def test_the_live_display_is_moved_by_nobody_else() -> None:
    for word in words():
        event = {
            "state": "backoff",
            "attempt": 1,
            "certificate": {"cause": word.text, "message": word.text, "killed_by": {"kind": word.text}},
        }
        for display in (
            Progress([word.text], out := io.StringIO()),
            Grid(["t-SVM"], [{"target": "t", "model": m} for m in MODELS], 0, 1.0, out),
        ):
            display.change(0, event)
            display.change(0, {**event, "state": word.text})
            display.close()
            assert_harmless(word.name, out.getvalue())
