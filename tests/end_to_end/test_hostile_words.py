"""Nothing that an agent, a script, a file or a command line says does any harm where it comes out.

Each word of the corpus is put wherever it fits, and each place where it comes out is looked at, through a pipe and on a
terminal. That the word did come there is proved with it: its name stands beside it.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sqlite3
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from deadline import until
from hostile_words import IGNORABLE, PICKLES, WORDS, Word, assert_harmless, bouquet, hostile_in, words
from house import House

# What text can hold.
STORABLE = words(but=["bytes"])
#: Beside each word, so that it is found again.
MARK = "w%03d"

#: Runs in the sandbox. It says its word in every way that a task has.
SCRIPT = r"""
import os, sys, signal, ctypes
LONG = {}
def setup():
    sys.stdout.write("\x1b]0;setup\x07")
def run(config, shared):
    word, mark, way = config["word"], config["mark"], config["way"]
    raw = bytes.fromhex(config["hex"])
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        stream.buffer.write(raw + mark.encode() + b"\n")
        stream.flush()
    try:
        name = raw.replace(b"\0", b"").replace(b"/", b"")[:200] + mark.encode()
        with open(os.path.join(os.environ["CLOVE_OUT"].encode(), name), "w") as f:
            f.write("kept")
        os.symlink(b"/etc/passwd", os.path.join(os.environ["CLOVE_OUT"].encode(), b"l" + name))
    except OSError as e:
        return {"failed": str(e)}
    if way == "return":
        return {mark + word: word + mark, "mark": mark, "list": [word, {word: word}]}
    if way == "raise":
        kind = type(word.replace("\0", "") + mark, (Exception,), {"__module__": word})
        exec(compile("def f(e):\n    raise e", word.replace("\0", "") + mark, "exec"), space := {})
        space["f"](kind(word + mark))
    if way == "exit":
        sys.exit(word + mark)
    if way == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError(way)
"""


def sweep_of(house: House, chosen: Sequence[Word], ways: Sequence[str], name: str = "s.py") -> List[Dict[str, Any]]:
    """Writes the script and its configurations; each word is a value and, where it may be, a key."""
    house.write(name, SCRIPT)
    configs: List[Dict[str, Any]] = []
    for i, word in enumerate(chosen):
        for way in ways:
            text = word.data.decode("utf-8", "replace")
            configs.append({"word": text, "hex": word.data.hex(), "mark": MARK % i, "way": way, "k" + text: i})
    (house.work / "l.jsonl").write_text("\n".join(map(json.dumps, configs)) + "\n")
    return configs


#: What moves the progress bar: known from a sweep with harmless words, and compared with that.
SEQUENCE = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[^\[]|\r")


def on_terminal(house: House, *args: str, env: Dict[str, str] = {}, code: Sequence[int] = (0,)) -> bytes:  # noqa: B006
    """What a command shows on a terminal, where a line ends with CR LF."""
    t = house.terminal(*args, env={"TERM": "dumb", **env})
    ended = t.wait()
    assert ended in code, f"{args} ended with {ended}: {t.seen!r}"
    return t.seen.replace(b"\r\n", b"\n")


def look(house: House, *args: str, code: Sequence[int] = (0,), lines: bool = False) -> str:
    """A command's words through pipes and on a terminal: both must be harmless, and they are returned as one text."""
    ended = house.clove(*args)
    assert ended.code in code, f"{args}\n{ended}"
    allowed = "\n\t"
    where = f"clove {' '.join(args)[:100]}"
    assert_harmless(where + " (stdout)", ended.out, allowed)
    assert_harmless(where + " (stderr)", ended.err, allowed)
    shown = assert_harmless(where + " (terminal)", on_terminal(house, *args, code=code), allowed)
    for line in (*ended.err.splitlines(), *shown.splitlines()):
        assert not re.match(r"clove: (r1: )?all is well", line), f"{where}: a forged line: {line}"
    return ended.out + ended.err + shown


def marks_in(text: str) -> set:
    return set(re.findall(r"w\d\d\d", text))


def test_what_tasks_say_is_harmless_in_every_listing(house: House) -> None:
    ways = ["return", "raise", "exit", "die"]
    configs = sweep_of(house, words(), ways)
    count = len(words())
    everyone = {MARK % i for i in range(count)}
    hostile_name = bouquet([*words("markup")[:1], *words("invisible")[:4]])
    args = [
        "sweep",
        "run",
        "s.py",
        "--list",
        "l.jsonl",
        "--name",
        hostile_name,
        "--timeout",
        "60s",
        "--retry-deaths",
        "0",
    ]
    args += ["--task-name", "{mark}-{way}", "--jobs", "2"]

    # The run itself, on a terminal with a moving bar. What may move it is known from a harmless one.
    t = house.terminal(*args)
    ended = t.wait()
    assert ended == 1, t.seen[-2000:]
    control = harmless_bar(house)
    moved = set(SEQUENCE.findall(t.seen))
    assert moved <= control, f"sequences that are none of the bar's: {moved - control}"
    rest = SEQUENCE.sub(b"", t.seen.replace(b"\r\n", b"\n"))
    shown = assert_harmless("sweep run with a bar", rest)
    assert len(marks_in(shown)) > 15, shown[-3000:]
    run = next(r["id"] for r in house.json("sweep", "ls") if r["total"] == len(configs))

    # Then every verb that tells of it.
    table = look(house, "sweep", "results", run)
    assert marks_in(table) == everyone
    assert "SIGSEGV" in table
    assert "\\u{1b}" in table and "\\u{202e}" in table, "the escapes must be seen: else nothing was tried"
    look(house, "sweep", "results", run, "--failed")
    assert marks_in(look(house, "sweep", "attach", run, code=[1]))
    look(house, "sweep", "ls")
    assert "<script>" in look(house, "sweep", "show", run)
    assert marks_in(look(house, "ps", "-a"))
    for verb in (["ls"], ["show", run], ["results", run], ["watch", run]):
        piped = house.clove("sweep", *verb, "--json").ok()
        assert_harmless(f"sweep {verb[0]} --json", piped.out)
        assert_harmless(f"sweep {verb[0]} --json (terminal)", on_terminal(house, "sweep", *verb, "--json"))
    # JSON loses nothing.
    results = {t["index"]: t for t in house.json("sweep", "results", run)}
    assert len(results) == len(configs)
    for i, config in enumerate(configs):
        assert results[i]["config"] == config
        if config["way"] == "return":
            word, mark = config["word"], config["mark"]
            assert results[i]["result"] == {mark + word: word + mark, "mark": mark, "list": [word, {word: word}]}, (
                results[i]
            )
        if config["way"] == "raise":
            assert results[i]["exception"]["message"] == config["word"] + config["mark"], results[i]
    check_csv(house, run, everyone)

    # One task, one agent, one log at a time is slow: those with the most in them.
    for way in ways:
        chosen = [i for i, c in enumerate(configs) if c["way"] == way]
        for i in chosen[:: max(1, len(chosen) // 6)]:
            text = look(house, "sweep", "inspect", run, str(i))
            assert configs[i]["mark"] in text
            assert_harmless("sweep inspect --json", house.clove("sweep", "inspect", run, str(i), "--json").ok().out)
    dead = [a for a in house.json("ps", "-a") if a.get("ended") == "signal SIGSEGV"][:8]
    assert dead
    for agent in dead:
        assert "last words" in look(house, "inspect", agent["id"])
        assert_harmless("inspect --json", house.clove("inspect", agent["id"], "--json").ok().out)
        look(house, "wait", agent["id"], code=[139])
        assert_harmless("wait --json", house.clove("wait", agent["id"], "--json").out)
    # Files with such names are copied as they are, and told of harmlessly.
    assert f"{len(configs)} files" in look(house, "sweep", "artifacts", run, "dest")
    kept = {os.fsencode(p.name) for p in (house.work / "dest").rglob("*") if p.is_file()}
    assert any(b"\x1b]52" in name for name in kept), "the control: names are kept as they are"
    assert_harmless("sweep artifacts --json", house.clove("sweep", "artifacts", run, "dest2", "--json").ok().out)
    # The store has the words as they came: what shows them has to know what they are.
    query = f"SELECT exception_message FROM tasks WHERE run = {run[1:]} AND exception_message IS NOT NULL"
    raised = {c["word"] + c["mark"] for c in configs if c["way"] == "raise"}
    until(lambda: {row[0] for row in store_rows(house, query)} == raised, "all exceptions in state.db")
    check_kernel_log(house)


def test_long_words_are_cut_where_a_line_is_a_line(house: House) -> None:
    house.write("long.py", """
        import os, sys
        def run(config, shared):
            word = bytes.fromhex(config["hex"]).decode() * config["times"]
            print(word)
            if config["way"] == "return":
                return {word[:500_000]: word}
            if config["way"] == "raise":
                raise type(word, (Exception,), {})(word)
            sys.exit(word)
    """)  # fmt: skip
    configs = []
    for word in words("long"):
        piece = next(
            n
            for n in (1, 2, 4)
            if word.data == word.data[:n] * (len(word.data) // n) and word.data[:n].decode("utf-8", "ignore")
        )
        configs += [
            {"hex": word.data[:piece].hex(), "times": len(word.data) // piece, "way": w}
            for w in ("return", "raise", "exit")
        ]
    (house.work / "l.jsonl").write_text("\n".join(map(json.dumps, configs)) + "\n")
    for args in (["run", "long.py", "--list", "l.jsonl", "--retry-failures", "0"], ["results"], ["attach", "last"]):
        shown = look(house, "sweep", *args, code=[0, 1])
        assert len(shown) < 100_000, (args, len(shown))
    for i in range(0, len(configs), 5):
        look(house, "sweep", "inspect", "last", str(i))
    # A hundred thousand lines of a log are all shown.
    until(lambda: house.clove("logs", "r1/9").out.count("x\n") == 100_000, "the whole log")
    assert on_terminal(house, "logs", "r1/9").count(b"x\n") == 100_000


def store_rows(house: House, query: str) -> List[Tuple[Any, ...]]:
    """What `state.db` has: the words as they came."""
    with sqlite3.connect(f"file:{house.home / 'state.db'}?mode=ro", uri=True) as db:
        return db.execute(query).fetchall()


def check_kernel_log(house: House) -> None:
    """Every line of kernel.log is the kernel's own."""
    log = (house.home / "kernel.log").read_bytes()
    text = assert_harmless("kernel.log", log)
    for line in text.splitlines():
        assert line.startswith("clove"), f"kernel.log has a forged line: {line!r}"


def harmless_bar(house: House) -> set:
    """The sequences that a progress bar is made of."""
    house.write(
        "plain.py", "import time\ndef run(config, shared):\n    time.sleep(0.02)\n    return 1 / (config['a'] % 3)\n"
    )
    t = house.terminal("sweep", "run", "plain.py", "--grid", "a=" + ",".join(map(str, range(60))), "--jobs", "2")
    t.wait()
    found = set(SEQUENCE.findall(t.seen))
    assert b"\x1b[2K" in found, t.seen[-500:]
    return found


def check_csv(house: House, run: str, everyone: set) -> None:
    """No spreadsheet finds a formula, wherever it parts the fields."""
    text = house.clove("sweep", "results", run, "--csv").ok().out
    assert_harmless("--csv", text)
    assert_harmless("--csv (terminal)", on_terminal(house, "sweep", "results", run, "--csv"))
    assert marks_in(text) == everyone
    checked = 0
    for delimiter in ",;\t|":
        for row in csv.reader(text.splitlines(), delimiter=delimiter):
            for cell in row if delimiter in ",;" else row[:1]:
                assert not is_formula(cell), f"with {delimiter!r}: {cell!r}"
                checked += 1
    rows = list(csv.reader(text.splitlines()))
    assert all(len(row) == len(rows[0]) for row in rows) and len(rows) == 1 + len(house.results(run))
    assert checked > 1000
    # Positive control: the same eyes see those of the corpus.
    assert all(
        is_formula(w.text) for w in words("formula") if w.name in ("dde", "plus", "minus", "at", "blank-formula")
    )
    assert not is_formula("-1.5") and not is_formula("+1e9")


def is_formula(cell: str) -> bool:
    """A spreadsheet would calculate it (OWASP, CSV injection)."""
    bare = cell.strip(' \u00a0\u3000"')
    if not bare.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")):
        return False
    try:
        float(bare)
    except ValueError:
        return True
    return False


def test_what_programs_say_is_harmless_in_logs(house: House) -> None:
    everything = b"".join(w.data + (MARK % i).encode() + b"\n" for i, w in enumerate(WORDS) if w.kind != "long")
    (house.work / "said").write_bytes(everything)
    said = f"{house.work}/said:/said"
    argument = bouquet(STORABLE)
    house.clove(
        "run", "-d", "--name", "speaker", "-v", said, "--", "sh", "-c", "cat /said; cat /said >&2; exit 3", argument
    ).ok()
    house.clove("wait", "speaker")
    # A pipe gets the bytes.
    piped = subprocess.run(
        [house.clove_bin, "logs", "--stream", "out", "speaker"],
        env=house.env,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert piped.stdout == everything
    everyone = {MARK % i for i, w in enumerate(WORDS) if w.kind != "long"}
    for args in (["logs", "speaker"], ["logs", "-f", "speaker"], ["logs", "--stream", "err", "speaker"]):
        # A terminal doesn't, ...
        shown = assert_harmless(" ".join(args), on_terminal(house, *args), "\n\t")
        assert marks_in(shown) == everyone
        assert "\\x1b]52;c;" in shown
        # ... except for colours, where there are some.
        t = house.terminal(*args)
        assert t.wait() == 0
        left = re.sub(rb"\x1b\[[0-9;:]*m", b"", t.seen.replace(b"\r\n", b"\n"))
        assert_harmless(" ".join(args) + " with colours", left, "\n\t")
        assert b"\x1b[31mred\x1b[0m" in t.seen
    # Positive control: who asks for the bytes gets them on a terminal too.
    assert b"\x1b]52;c;" in on_terminal(house, "logs", "--raw", "speaker")
    assert marks_in(look(house, "inspect", "speaker")), "its last words"
    look(house, "ps", "-a")
    # An attached program's streams are the caller's own, as with every container engine; our words about it aren't its.
    t = house.terminal("run", "-v", said, "--", "sh", "-c", "cat /said; exit 3")
    assert t.wait() == 3 and b"\x1b]52;c;" in t.seen
    ended = house.clove("run", "--json", "-v", said, "--", "sh", "-c", "cat /said >&2; kill -SEGV $$", argument)
    assert_harmless("run --json", ended.out)
    assert json.loads(ended.out)["certificate"]["tail"]
    check_kernel_log(house)


def test_hostile_command_lines_are_answered_harmlessly(house: House) -> None:
    house.write("ok.py", "def run(config, shared):\n    return 1\n")
    house.write("ok", "#!/bin/sh\necho 1 > $CLOVE_RESULT\n", 0o755)
    house.clove("sweep", "run", "./ok", "--grid", "a=1").ok()
    for chosen in (
        words("terminal", "invisible"),
        words("markup", "formula"),
        words("shell", "format", "as-is"),
        words("bytes"),
    ):
        bad = bouquet(w for w in chosen if w.name != "option")
        short = bad.replace("/", "")[:100]
        (house.work / f"{short}.toml").write_text('script = "ok.py"\n[grid]\na = 1\n')
        (house.work / f"{short}.py").write_text("print(1)\n")
        (house.work / f"{short}.sh").write_text("#!/bin/sh\n")
        escaped = json.dumps(bad.encode("utf-8", "replace").decode())
        (house.work / "inner.toml").write_text(
            f"script = 'ok.py'\n{escaped} = {escaped}\n[grid]\na = {escaped}\n", encoding="utf-8"
        )
        (house.work / "raw.toml").write_bytes(
            b"script = 'ok.py'\nname = '" + bad.encode("utf-8", "surrogateescape") + b"'\n"
        )
        (house.work / "list.jsonl").write_bytes(bad.encode("utf-8", "surrogateescape"))
        commands: List[List[str]] = [
            [bad], ["inspect", bad], ["kill", bad], ["kill", bad, bad], ["wait", bad], ["logs", bad], ["explain", bad], ["ps", bad],
            ["sweep", bad], ["sweep", "show", bad], ["sweep", "results", bad], ["sweep", "inspect", "last", bad],
            ["sweep", "cancel", "last", bad], ["sweep", "resume", bad], ["sweep", "attach", bad], ["sweep", "watch", bad],
            ["sweep", "artifacts", bad, "dest"], ["sweep", "artifacts", "last", bad, "dest"],
            ["run", bad], ["run", f"./{short}.py"], ["run", f"./{short}.sh"], ["run", f"{short}.sh"], ["run", "--name", bad, "--", "true"],
            ["run", "-v", f"{bad}:/x", "--", "true"], ["run", "-v", f"/usr:{bad}", "--", "true"], ["run", "-e", f"={bad}", "--", "true"],
            ["run", "-w", bad, "--", "true"], ["run", "-w", f"/{bad}", "--", "true"], ["run", "--memory", bad, "--", "true"],
            ["run", "--timeout", bad, "--", "true"], ["run", "--profile", bad, "--", "true"], [f"--{bad}"], ["run", f"--{bad}", "true"],
            ["run", f"--memory={bad}"], ["kill", "-s", bad, "x"], ["sweep", "run", bad], ["sweep", "run", f"{short}.toml"], ["sweep", "run", f"{short}.py"],
            ["sweep", "run", f"{short}.sh"], ["sweep", "run", "inner.toml"], ["sweep", "run", "raw.toml"], ["sweep", "run", "ok.py", "--list", "list.jsonl"],
            ["sweep", "run", "ok.py", "--list", bad], ["sweep", "run", "ok.py", "--grid", bad.replace("=", "")], ["sweep", "run", "ok.py", "--random", bad],
            ["sweep", "run", "ok.py", "--grid", "a=1", "--task-name", bad + "{"], ["sweep", "run", "ok.py", "--grid", "a=1", "--python", bad],
            ["sweep", "run", "ok.py", "--grid", "a=1", "--python", f"./{bad}"], ["completions", bad], ["kernel", bad], ["serve", "--idle-timeout", bad],
            ["ping", "-n", bad],
        ]  # fmt: skip
        for args in commands:
            ended = house.clove(*args)
            assert ended.code != 0, f"{args}\n{ended}"
            where = f"clove {args}"
            assert_harmless(where, ended.out + ended.err)
            assert ended.err.startswith("clove: "), f"{where}\n{ended}"
            forged = [line for line in ended.err.splitlines()[1:] if line.startswith("clove")]
            assert all(args[0] == "kill" and line.startswith("clove: error: ") for line in forged), f"{where}: {forged}"
        # The same function writes on terminals; a few prove it.
        for args in commands[:12:3]:
            assert_harmless(f"{args} on a terminal", on_terminal(house, *args, code=range(1, 256)))
    # Data directories may be named by anybody.
    home = house.folder / bouquet(words("terminal"))[:40].replace("/", "")
    for args in (["kernel", "info"], ["kernel", "socket"], ["stop"]):
        t = house.terminal(*args, env={"CLOVE_HOME": str(home), "TERM": "dumb"})
        t.wait()
        assert_harmless(f"{args}", t.seen.replace(b"\r\n", b"\n"))


def test_templates_that_fail_say_so_harmlessly(house: House) -> None:
    for i, (kind, source) in enumerate([
        ("import", "import sys\nsys.stderr.write(W)\nraise RuntimeError(W)\ndef run(config, shared): pass\n"),
        ("setup", "def setup():\n    raise type(W.replace('\\0', ''), (Exception,), {})(W)\ndef run(config, shared): pass\n"),
        ("exit", "import sys, os\nprint(W, flush=True)\nsys.stderr.write(W)\nsys.stderr.flush()\nos._exit(3)\ndef run(config, shared): pass\n"),
    ]):  # fmt: skip
        word = bouquet(words(but=["bytes"]), " mark ")
        house.write(f"t{i}.py", f"W = {word!a}\n{source}")
        shown = look(house, "sweep", "run", f"t{i}.py", "--grid", "a=1", "--name", f"n-{kind}", code=[1, 125])
        shown += look(house, "sweep", "show", f"n-{kind}") + look(house, "sweep", "ls")
        assert kind == "exit" or "mark" in shown, f"{kind}: {shown}"
        assert_harmless(kind, house.clove("sweep", "show", f"n-{kind}", "--json").ok().out)
    # A template that says hostile things of itself, and is ready.
    house.write(
        "notes.py",
        f"""\
        import gc
        W = {word!a}
        [o.notes.append(W) for o in gc.get_objects() if type(o).__name__ == "Template"]
        def run(config, shared): return 1
    """,
    )
    look(house, "sweep", "run", "notes.py", "--grid", "a=1", "--name", "n-notes")
    assert "mark" in (house.home / "kernel.log").read_text(), "the control: its words are in there"
    check_kernel_log(house)


def test_names_reach_notify_as_values_only(house: House) -> None:
    house.write("ok.py", "def run(config, shared):\n    return config\n")
    chosen = [
        w
        for w in words("shell", "format", "markup", "formula", "as-is", "invisible")
        if not re.search(r"[\x00-\x1f\x7f-\x9f]", w.text)
    ]
    assert len(chosen) > 20
    name = bouquet(chosen[::-1])[:90]
    names = [*[w.text for w in chosen if len(w.text.encode()) < 200][:6], name]
    for i, one in enumerate(names):
        command = f'printf "%s" "$CLOVE_NOTIFY_NAME" > {house.work}/notified.{i}.part; mv {house.work}/notified.{i}.part {house.work}/notified.{i}'
        house.clove("sweep", "run", "ok.py", "--grid", "a=1", f"--name={one}", "--notify", command).ok()
        told = until(
            lambda i=i: (p := house.work / f"notified.{i}").exists() and p.read_text(), f"the notification of {one!r}"
        )
        assert told == one
    found = [str(p) for p in house.folder.rglob("pwned")] + [p for p in ("/pwned", "/tmp/pwned") if os.path.exists(p)]
    assert found == []
    # What isn't a name is refused, not cut.
    for word in words("terminal"):
        ended = house.clove("sweep", "run", "ok.py", "--grid", "a=1", f"--name=x{word.text.replace(chr(0), '')}")
        assert ended.code != 0 or not re.search(r"[\x00-\x1f\x7f-\x9f]", word.text.replace("\0", "")), (
            f"{word.name}\n{ended}"
        )
        assert_harmless(word.name, ended.out + ended.err)


#: Runs as the caller of an Executor. What its calls do, they do in their own processes.
CALLER = r"""
import json, sys, traceback
from cloveos import Executor

def forge(data, way):
    # A hostile agent: it sends what it likes, and says of it what it likes.
    import cloveos._agent as agent, cloveos._results as results
    data = data.encode("latin-1")
    results.dumps = lambda value: data
    if way == "raised":
        agent.exception_text = lambda e: {"class": "builtins.ValueError", "message": "x", "traceback": "x"}
        raise ValueError
    return 1

def raise_word(word):
    class Evil(Exception):
        def __init__(self, *args):
            open("/tmp/executed", "w").close()
        def __reduce__(self):
            import os
            return os.system, ("touch executed",)
        def __str__(self):
            open("/tmp/executed", "w").close()
            return word
    Evil.__qualname__ = word.replace("\0", "")
    Evil.__module__ = word
    raise Evil(word)

def bad_setup():
    raise RuntimeError("".join(json.load(open(__file__ + ".words"))))

def raise_plain(word):
    raise ValueError(word)

def die(word):
    import os, sys
    sys.stderr.write(word + "\n"); sys.stderr.flush()
    os.kill(os.getpid(), 11)

def names_class(word):
    return type(word.replace("\0", ""), (), {"__module__": word})()

def shown(error):
    return "\n".join([str(error), "".join(traceback.format_exception(type(error), error, error.__traceback__))])

if __name__ == "__main__":
    words, pickles = json.load(open("corpus.json"))
    out = {}
    with Executor(2, timeout=60, retries=0) as executor:
        futures = {}
        for name, data in pickles.items():
            for way in ("returned", "raised"):
                futures[f"{way} {name}"] = executor.submit(forge, data, way)
        for name, word in words.items():
            for f in (raise_word, raise_plain, die, names_class):
                futures[f"{f.__name__} {name}"] = executor.submit(f, word)
        for key, future in futures.items():
            error = future.exception(60)
            out[key] = [type(error).__name__, shown(error) if error is not None else "", str(future), getattr(error, "certificate", None) and repr(error.certificate)]
    with Executor(1, setup=bad_setup) as executor:
        error = executor.submit(raise_plain, "x").exception(60)
        out["setup"] = [type(error).__name__, shown(error), "", None]
    json.dump(out, open("out.json", "w"))
    # The last ones aren't caught: Python prints them, on this program's terminal.
    with Executor(1) as executor:
        executor.submit(raise_plain, "".join(words.values())).result()
"""


def test_a_caller_of_hostile_agents_is_not_harmed(house: House) -> None:
    house.write("caller.py", CALLER)
    said = {w.name: w.text for w in STORABLE}
    (house.work / "caller.py.words").write_text(json.dumps([*said.values(), "template"]))
    pickles = {p.name: p.data.decode("latin-1") for p in PICKLES if len(p.data) < 5_000}
    (house.work / "corpus.json").write_text(json.dumps([said, pickles]))
    import pty
    import sys

    master, slave = pty.openpty()
    env = {
        "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "python"),
        "CLOVE_BIN": house.clove_bin,
        "PYTHONIOENCODING": "utf-8",
    }
    caller = house.start_any(
        [sys.executable, "caller.py"], env=env, stdin=slave, stdout=slave, stderr=slave, text=False, errors=None
    )
    os.close(slave)
    os.set_blocking(master, False)
    seen = b""

    def ended() -> bool:
        nonlocal seen
        try:
            seen += os.read(master, 1 << 16)
        except (BlockingIOError, OSError):
            return caller.poll() is not None
        return False

    until(ended, f"the end of the caller; it printed {seen[-2000:]!r}", 120)
    os.close(master)
    assert caller.returncode == 1, seen[-3000:]
    shown = assert_harmless("the caller's terminal", seen.replace(b"\r\n", b"\n"), "\n\t")
    assert "ValueError: \\x1b]52;c;" in shown, shown[-3000:]
    out = json.loads((house.work / "out.json").read_text())
    assert not list(house.folder.rglob("executed")) and not os.path.exists("/tmp/executed")
    kind, text, _, _ = out.pop("setup")
    assert kind == "SysError" and "template" in assert_harmless("a setup that fails", text, "\n\t")
    for key, (kind, text, future, certificate) in out.items():
        assert_harmless(key, text, "\n\t")
        assert_harmless(key, future)
        way, _, name = key.partition(" ")
        if way == "returned":
            known = next(p for p in PICKLES if p.name == name)
            assert kind == ("NoneType" if known.shown else "UntrustedResult"), (key, kind, text)
        elif way == "raised":
            assert kind in ("RemoteError", "ValueError", "SyntaxError", "FileNotFoundError"), (key, kind)
        elif way == "raise_word":
            assert kind == "RemoteError", (key, kind)
        elif way == "raise_plain":
            assert kind == "ValueError", (key, kind)
        elif way == "die":
            assert kind == "AgentDied" and certificate, (key, kind)
        else:
            assert kind in ("TypeError", "RemoteError"), (key, kind)
        if certificate:
            assert_harmless(f"repr of {key}", IGNORABLE.sub("", certificate))
    assert hostile_in("".join(said.values())), "the control"
    check_kernel_log(house)
