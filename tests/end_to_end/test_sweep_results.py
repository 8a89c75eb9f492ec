"""Sweeps of Python scripts: configurations in, results out, faults told apart."""

from __future__ import annotations

import csv
import io
import math

import pytest
from house import House

PLAIN = """
    def run(config, shared):
        return {"sum": config["a"] + config["b"]}
"""


def number(value):
    """A float from its form on the wire."""
    return float(value["$float"]) if isinstance(value, dict) else value


def test_a_script_with_grids(house: House) -> None:
    house.write("add.py", PLAIN)
    ended = house.clove("sweep", "run", "add.py", "--grid", "a=1,2,3", "--grid", "b=10,20")
    assert ended.code == 0, f"\n{ended}"
    assert [house.results()[i]["result"]["sum"] for i in range(6)] == [11, 21, 12, 22, 13, 23]
    assert "6 of 6 done" in ended.out, f"\n{ended}"


def test_a_sweep_file(house: House) -> None:
    house.write("add.py", PLAIN)
    house.write("sweep.toml", """
        name = "sums"
        script = "add.py"
        jobs = 2
        task_name = "{a}+{b}"
        [grid]
        a = [1, 2]
        b = [0.5]
        [limits]
        memory = "256m"
        timeout = "1m"
    """)  # fmt: skip
    house.clove("sweep", "run", "sweep.toml").ok()
    results = house.results("sums")
    assert {t["name"]: t["result"]["sum"] for t in results.values()} == {"1+0.5": 1.5, "2+0.5": 2.5}
    assert house.clove("sweep", "inspect", "sums", "2+0.5").ok().out.count("2.5") >= 1


def test_lists_and_random_draws(house: House) -> None:
    house.write("echo.py", "def run(config, shared):\n    return config\n")
    house.write("l.jsonl", '{"x": 1}\n{"x": 2, "y": [1, {"z": null}]}\n')
    house.clove("sweep", "run", "echo.py", "--list", "l.jsonl").ok()
    assert [house.results()[i]["result"] for i in (0, 1)] == [{"x": 1}, {"x": 2, "y": [1, {"z": None}]}]
    draws = []
    for _ in range(2):
        house.clove(
            "sweep",
            "run",
            "echo.py",
            "--random",
            "lr=1e-4..1e-1:log",
            "--random",
            "m=a|b",
            "--samples",
            "8",
            "--seed",
            "7",
        ).ok()
        draws.append([house.results()[i]["result"] for i in range(8)])
    assert draws[0] == draws[1] and len({d["lr"] for d in draws[0]}) == 8
    assert all(1e-4 <= d["lr"] <= 1e-1 and d["m"] in ("a", "b") for d in draws[0])


def test_setup_runs_once_and_is_shared(house: House) -> None:
    log = house.work / "log"
    log.mkdir()
    house.write("s.py", """
        import os

        def setup():
            return {"made_by": os.getpid(), "big": list(range(1000))}

        def run(config, shared):
            shared["big"].append(config["a"])  # copy-on-write: nobody else sees it
            return [shared["made_by"], len(shared["big"])]
    """)  # fmt: skip
    house.clove("sweep", "run", "s.py", "--grid", "a=" + ",".join(map(str, range(12)))).ok()
    results = [t["result"] for t in house.results().values()]
    assert len(results) == 12 and len({r[0] for r in results}) == 1 and {r[1] for r in results} == {1001}


def test_every_kind_of_number_is_a_result(house: House) -> None:
    pytest.importorskip("numpy")
    house.write("n.py", """
        import numpy as np

        def run(config, shared):
            return {
                "nan": float("nan"), "inf": float("inf"), "ninf": -np.inf, "f64": np.float64(0.1), "f32": np.float32(0.5),
                "i64": np.int64(-7), "u8": np.uint8(255), "bool": np.bool_(True), "array": np.arange(3), "nested": [np.float64("nan"), (1, 2)],
                "none": None, "text": "a,\\"b\\"\\n=1+1",
            }
    """)  # fmt: skip
    ended = house.clove("sweep", "run", "n.py", "--grid", "a=1")
    assert ended.code == 0, f"\n{ended}\n{house.clove('sweep', 'inspect', 'last', '0')}"
    r = house.results()[0]["result"]
    assert math.isnan(number(r["nan"])) and number(r["inf"]) == math.inf and number(r["ninf"]) == -math.inf
    assert (r["f64"], r["f32"], r["i64"], r["u8"], r["bool"], r["array"]) == (0.1, 0.5, -7, 255, True, [0, 1, 2])
    assert math.isnan(number(r["nested"][0])) and r["nested"][1] == [1, 2] and r["none"] is None
    table = list(csv.DictReader(io.StringIO(house.clove("sweep", "results", "--csv").out)))
    assert (table[0]["result.nan"], table[0]["result.inf"], table[0]["result.ninf"]) == ("nan", "inf", "-inf")
    assert float(table[0]["result.f64"]) == 0.1 and '"b"' in table[0]["result.text"]


def test_faults_are_told_apart(house: House) -> None:
    house.write("faults.py", """
        import ctypes, os, sys, time

        def deep(k):
            raise KeyError(f"no {k}")

        def run(config, shared):
            kind = config["kind"]
            if kind == "raise": deep("such key")
            if kind == "exit": sys.exit(9)
            if kind == "zero": sys.exit(0)
            if kind == "words": sys.exit("last words")
            if kind == "segv": ctypes.string_at(0)
            if kind == "oom":
                x = []
                while True: x.append(bytearray(1 << 20))
            if kind == "loop": time.sleep(1000)
            if kind == "bad": return object()
            return kind
    """)  # fmt: skip
    kinds = ["ok", "raise", "exit", "zero", "words", "segv", "oom", "loop", "bad", "ok2"]
    ended = house.clove(
        "sweep", "run", "faults.py", "--grid", "kind=" + ",".join(kinds), "-m", "128m", "--timeout", "2s", "--retry-deaths", "0",
        "--task-name", "{kind}",
    )  # fmt: skip
    assert ended.code == 1, f"\n{ended}"
    by = {t["name"]: t for t in house.results().values()}
    assert by["ok"]["result"] == "ok" and by["ok2"]["result"] == "ok2"
    cause = {k: t["cause"] for k, t in by.items()}
    assert (
        cause["raise"] == "exception"
        and cause["segv"] == "signal SIGSEGV"
        and cause["oom"] == "oom"
        and cause["loop"] == "timeout"
    ), cause
    assert cause["exit"] == "exit 9" and cause["words"] == "exit 1", cause
    assert by["zero"]["state"] != "done" and "result" in by["zero"]["message"], by["zero"]
    shown = house.clove("sweep", "inspect", "last", "raise").out
    assert "Traceback (most recent call last)" in shown and "in deep" in shown and "KeyError" in shown, shown
    assert "cloveos" not in shown, f"our own frames are of no use to the reader\n{shown}"
    assert "last words" in house.clove("sweep", "inspect", "last", "words").out
    assert by["bad"]["cause"] == "exception" and "object" in by["bad"]["message"], by["bad"]
    # Who runs beside them isn't hurt, and the summary counts them.
    show = house.shown()
    assert show["done"] == 2 and show["failures"] == {"exception": 2, "exit": 3, "signal": 1, "oom": 1, "timeout": 1}, (
        show["failures"]
    )


def test_a_death_is_tried_again_and_an_exception_is_not(house: House) -> None:
    house.write("flaky.py", """
        import ctypes, os

        def run(config, shared):
            attempt = int(os.environ["CLOVE_ATTEMPT"])
            if config["kind"] == "crash" and attempt < 3: ctypes.string_at(0)
            if config["kind"] == "raise": raise ValueError(attempt)
            return attempt
    """)  # fmt: skip
    ended = house.clove("sweep", "run", "flaky.py", "--grid", "kind=crash,raise,fine")
    assert ended.code == 1
    r = house.results()
    assert (r[0]["result"], r[0]["attempts"], r[0]["state"]) == (3, 3, "done"), r[0]
    assert [c["signal"] for c in r[0]["certificates"]] == [11, 11]
    assert (r[1]["attempts"], r[1]["state"]) == (1, "failed") and (r[2]["result"], r[2]["attempts"]) == (1, 1)
    assert "tried again" in ended.err, f"\n{ended}"
    # Asked for, exceptions are tried again too.
    house.clove("sweep", "run", "flaky.py", "--grid", "kind=raise", "--retry-failures", "1")
    assert house.results()[0]["attempts"] == 2


def test_what_keeps_dying_is_given_up_and_blocks_nobody(house: House) -> None:
    house.write(
        "t.py", "import ctypes\ndef run(config, shared):\n    return ctypes.string_at(0) if config['a'] == 1 else 1\n"
    )
    ended = house.clove("sweep", "run", "t.py", "--grid", "a=1,2,3,4", "-j", "1")
    r = house.results()
    assert ended.code == 1 and r[0]["state"] == "quarantined" and r[0]["attempts"] == 3
    assert [r[i]["state"] for i in (1, 2, 3)] == ["done"] * 3


def test_memory_doubles_where_that_is_asked_for(house: House) -> None:
    house.write("m.py", "def run(config, shared):\n    return len(bytearray(150 << 20)) >> 20\n")
    house.clove("sweep", "run", "m.py", "--grid", "a=1", "-m", "100m", "--on-oom", "double").ok()
    t = house.results()[0]
    assert t["result"] == 150 and t["attempts"] == 2
    assert [(c["cause"], c["limits"]["memory_bytes"] >> 20) for c in t["certificates"]] == [("oom", 100)]
    # The control: it isn't doubled unasked.
    ended = house.clove("sweep", "run", "m.py", "--grid", "a=1", "-m", "100m", "--retry-deaths", "1")
    assert ended.code == 1 and [c["limits"]["memory_bytes"] >> 20 for c in house.results()[0]["certificates"]] == [
        100,
        100,
    ]


def test_unseeded_numbers_differ_and_the_same_seed_repeats_them(house: House) -> None:
    house.write("r.py", """
        import random
        try:
            import numpy
        except ImportError:
            numpy = None

        def setup():
            random.random()

        def run(config, shared):
            return [random.random(), None if numpy is None else float(numpy.random.rand())]
    """)  # fmt: skip
    draws = []
    for seed in (["--seed", "5"], ["--seed", "5"], ["--seed", "6"], []):
        house.clove("sweep", "run", "r.py", "--grid", "i=" + ",".join(map(str, range(100))), *seed).ok()
        r = house.results()
        draws.append([r[i]["result"] for i in range(100)])
    for run in draws:
        assert len({d[0] for d in run}) == 100
        assert run[0][1] is None or len({d[1] for d in run}) == 100
    assert draws[0] == draws[1] and draws[0] != draws[2] and draws[3] != draws[0]


def test_reuse_takes_tasks_in_a_row_and_keeps_the_fault_boundary(house: House) -> None:
    house.write("u.py", """
        import ctypes, os
        count = 0

        def run(config, shared):
            global count
            count += 1
            if config["i"] == 7: ctypes.string_at(0)
            return [os.environ["CLOVE_TASK"], count, open("/proc/self/stat").read().split()[21]]
    """)  # fmt: skip
    ended = house.clove(
        "sweep",
        "run",
        "u.py",
        "--grid",
        "i=" + ",".join(map(str, range(20))),
        "--reuse",
        "5",
        "-j",
        "2",
        "--retry-deaths",
        "0",
    )
    r = house.results()
    assert ended.code == 1 and r[7]["cause"] == "signal SIGSEGV"
    done = [r[i]["result"] for i in range(20) if i != 7]
    assert [int(d[0]) for d in done] == [i for i in range(20) if i != 7]
    assert 2 <= max(d[1] for d in done) <= 5, done
    # The control: fresh processes never see another task's count.
    house.clove("sweep", "run", "u.py", "--grid", "i=1,2,3,4,5,6", "-j", "1").ok()
    assert {t["result"][1] for t in house.results().values()} == {1}


def test_standard_output_of_a_task_is_kept(house: House) -> None:
    house.write("p.py", "def run(config, shared):\n    print('said', config['a'])\n    raise ValueError('x')\n")
    house.clove("sweep", "run", "p.py", "--grid", "a=1,2")
    assert "said 2" in house.clove("sweep", "inspect", "last", "1").out


def test_env_and_mounts_of_a_sweep(house: House) -> None:
    house.write("data/x.txt", "mounted")
    house.write(
        "e.py",
        "import os\ndef run(config, shared):\n    return [os.environ.get('A'), os.environ.get('SECRET'), open('/d/x.txt').read(), os.getcwd(), open('beside.txt').read()]\n",
    )
    house.write("beside.txt", "beside")
    house.clove(
        "sweep", "run", "e.py", "--grid", "a=1", "-e", "A=b", "-v", f"{house.work}/data:/d", env={"SECRET": "s"}
    ).ok()
    assert house.results()[0]["result"] == ["b", None, "mounted", str(house.work), "beside"]


def test_two_sweeps_share_and_priority_goes_first(house: House) -> None:
    order = house.work / "order"
    order.mkdir(mode=0o777)
    house.write("o.py", """
        import os, time

        def run(config, shared):
            with open("/order/log", "a") as f:
                f.write(config["who"] + "\\n")
            if config["who"] == "block":
                while not os.path.exists("/order/go"):
                    time.sleep(0.02)
    """)  # fmt: skip
    (house.work / "l").write_text("")

    def submit(who: str, n: int, *more: str) -> None:
        grid = ["--grid", f"who={who}", "--grid", "i=" + ",".join(map(str, range(n)))]
        house.clove("sweep", "run", "o.py", *grid, "-d", "-v", f"{order}:/order:rw", "--name", who, *more).ok()

    cpus = len(__import__("os").sched_getaffinity(0))
    submit("block", cpus, "--memory-reserve", "10m")
    from deadline import until

    until(lambda: (order / "log").exists() and (order / "log").read_text().count("block") == cpus, "the blockers")
    submit("low", 3, "--priority", "-5", "-j", "1")
    submit("high", 3, "--priority", "5", "-j", "1")
    (order / "go").touch()
    for name in ("block", "low", "high"):
        house.clove("sweep", "attach", name).ok()
    said = [w for w in (order / "log").read_text().split() if w != "block"]
    assert sorted(said) == ["high"] * 3 + ["low"] * 3
    if cpus == 1 or said != sorted(said):
        assert said[0] == "high", said
