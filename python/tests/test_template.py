"""The template host as the launcher starts it: what it refuses, and the agents that are forked from it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest

from cloveos import _payload, _results
from cloveos._calls import NUMBERS

HOST = Path(__file__).parents[1] / "cloveos" / "_template.py"
HEADER = struct.Struct("<IIBBHB3xQ")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the stand-in of libclove_sys.so")
    out = tmp_path_factory.mktemp("lib") / "libstub.so"
    source = Path(__file__).with_name("template_stub.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(out), str(source)], check=True)
    return str(out)


class Agent:
    """The kernel's side of an agent's socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(30)

    def _read(self, n: int) -> bytes:
        out = b""
        while len(out) < n:
            piece = self.sock.recv(n - len(out))
            if not piece:
                raise EOFError
            out += piece
        return out

    def call(self) -> Tuple[str, Dict[str, Any], bytes, int]:
        body_len, tail_len, _, _, number, _, correlation = HEADER.unpack(self._read(HEADER.size))
        body, tail = self._read(body_len), self._read(tail_len)
        name = {v: k for k, v in NUMBERS.items()}[number]
        return name, json.loads(body, parse_constant=lambda w: pytest.fail(w)), tail, correlation

    def reply(self, name: str, correlation: int, body: Any, tail: bytes = b"") -> None:
        data = json.dumps(body).encode()
        self.sock.sendall(HEADER.pack(len(data), len(tail), 1, 1, NUMBERS[name], 0, correlation) + data + tail)

    def task(self, tail: bytes = b"", **fields: Any) -> Tuple[Dict[str, Any], bytes]:
        """Gives one task and returns what it hands in."""
        name, args, _, correlation = self.call()
        assert (name, args) == ("task.next", {})
        task = {
            "run": "r1", "task": 3, "attempt": 1, "name": "3", "config": None, "seed": 1, "threads": 1, "env": {},
            "mode": "script", "payload_blob": None, "reuse": False, **fields,
        }  # fmt: skip
        self.reply("task.next", correlation, task, tail)
        name, done, opaque, correlation = self.call()
        assert name == "task.done"
        self.reply(name, correlation, {})
        assert (done["run"], done["task"], done["attempt"]) == ("r1", 3, 1)
        return done, opaque

    def at_end(self) -> bool:
        try:
            self.call()
        except EOFError:
            return True
        return False


class Host:
    def __init__(self, library: str, spec: Dict[str, Any], python: str = sys.executable, env: Any = None) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(60)
        self.doing: List[str] = []
        folder = Path(spec.pop("folder"))
        path = folder / "spec.json"
        path.write_text(json.dumps({"python": python, "preload": [], "setup": None, "script": None, **spec}))
        self.out = folder / "out.txt"

        def descriptors() -> None:
            os.dup2(theirs.fileno(), 3)
            os.set_inheritable(3, True)

        with open(self.out, "w") as out:
            self.process = subprocess.Popen(
                [python, str(HOST)],
                env={"CLOVE_TEMPLATE_SPEC": str(path), "CLOVE_TEMPLATE_LIB": library, "PATH": "/usr/bin:/bin", **(env or {})},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", pass_fds=[3], preexec_fn=descriptors,
            )  # fmt: skip
        theirs.close()

    def event(self) -> Dict[str, Any]:
        while True:
            data = self.control.recv(1 << 20)
            assert data, self.out.read_text()
            event: Dict[str, Any] = json.loads(data)
            if event["event"] != "doing":
                return event
            self.doing.append(event["what"])

    def fork(self) -> Agent:
        ours, theirs = socket.socketpair()
        socket.send_fds(self.control, [b"fork"], [theirs.fileno()])
        theirs.close()
        return Agent(ours)

    def stop(self) -> int:
        self.control.close()
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()


@pytest.fixture
def host(library: str, tmp_path: Path) -> Iterator[Any]:
    hosts: List[Host] = []

    def start(script: Optional[str] = None, module: Optional[str] = None, **spec: Any) -> Host:
        if script is not None:
            (tmp_path / "train.py").write_text(textwrap.dedent(script))
            spec["script"] = str(tmp_path / "train.py")
        if module is not None:
            (tmp_path / "own_module.py").write_text(textwrap.dedent(module))
        spec.setdefault("sys_path", [str(tmp_path)])
        hosts.append(Host(library, {"folder": tmp_path, **spec}, env=spec.pop("process_env", None)))
        return hosts[-1]

    yield start
    for h in hosts:
        h.stop()


RUN = """
import os, random
calls = []
def setup():
    print("setting up")
    return {"base": 100}
def run(config, shared):
    calls.append(config)
    print("running", config)
    if config == "fail":
        raise ValueError("bad config")
    if config == "store":
        return {"model": object()}
    if config == "exit":
        raise SystemExit(3)
    return {"sum": shared["base"] + config["x"], "random": random.random(), "pid": os.getpid(), "calls": len(calls),
            "nan": float("nan"), "name": __name__}
"""


def test_a_script_runs_in_fresh_processes(host: Any) -> None:
    h = host(RUN)
    event = h.event()
    assert (event["event"], event["threads"]) == ("ready", 1)
    assert event["rss_bytes"] > 1 << 20
    results = []
    for seed in (1, 2, 1):
        agent = h.fork()
        done, opaque = agent.task(config={"x": 5}, seed=seed)
        assert opaque == b""
        assert done["result"]["sum"] == 105
        assert done["result"]["calls"] == 1, "each process is fresh"
        assert done["result"]["nan"] == {"$float": "nan"}
        assert done["result"]["name"] == "__clove_main__"
        assert done["elapsed_us"] >= 0
        assert done["rss_bytes"] >= 0
        assert agent.at_end()
        results.append(done["result"])
    assert len({r["pid"] for r in results}) == 3
    assert results[0]["random"] == results[2]["random"] != results[1]["random"]
    assert h.stop() == 0
    text = h.out.read_text()
    assert text.count("setting up") == 1
    assert text.count("running") == 3


def test_exceptions_and_results_that_cannot_be_stored(host: Any) -> None:
    h = host(RUN)
    h.event()
    done, _ = h.fork().task(config="fail")
    assert (done["exception"]["class"], done["exception"]["message"]) == ("ValueError", "bad config")
    assert "train.py" in done["exception"]["traceback"]
    assert "_agent.py" not in done["exception"]["traceback"]
    assert "result" not in done
    done, _ = h.fork().task(config="store")
    assert 'result["model"]: object is not storable as JSON' in done["exception"]["message"]
    agent = h.fork()
    with pytest.raises(EOFError):
        agent.task(config="exit")


def test_growth_is_reported_and_the_hosts_folders_are_left_alone(host: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.txt").write_text("x")
    h = host(
        "def run(config):\n    global kept\n    kept = bytearray(config)\n    return 1\n",
        process_env={"CLOVE_OUT": str(tmp_path / "out")},
    )
    h.event()
    agent = h.fork()
    assert agent.task(reuse=True, config=0)[0]["rss_bytes"] < 8 << 20
    assert agent.task(reuse=True, config=40 << 20)[0]["rss_bytes"] > 32 << 20
    agent.task()
    assert (tmp_path / "out" / "kept.txt").exists(), "only /out of a sandbox is emptied"


def test_reuse_and_its_environment(host: Any) -> None:
    h = host(
        """
        import os
        def run(config):
            return [os.environ.get("A"), os.environ.get("B"), os.environ.get("KEEP"), os.getcwd(), os.getpid()]
        """,
        process_env={"KEEP": "kept"},
    )
    h.event()
    agent = h.fork()
    first, _ = agent.task(reuse=True, env={"A": "1", "KEEP": "changed", "CLOVE_CWD": "/usr"})
    second, _ = agent.task(reuse=True, env={"B": "2"})
    third, _ = agent.task(reuse=False)
    assert first["result"][:4] == ["1", None, "changed", "/usr"]
    assert second["result"][:3] == [None, "2", "kept"]
    assert third["result"][:3] == [None, None, "kept"]
    assert first["result"][4] == third["result"][4]
    assert agent.at_end()
    agent = h.fork()
    done, _ = agent.task(env={"CLOVE_CWD": "/no/such/folder"})
    assert "/no/such/folder" in done["exception"]["message"]


def call(fn: Any, *args: Any) -> bytes:
    return _payload.pack(_payload.Payload(None, False, None, pickle.dumps((fn, args, {}))))


def test_calls(host: Any) -> None:
    h = host()
    h.event()
    done, opaque = h.fork().task(call(divmod, 17, 5), mode="call")
    assert _results.loads(opaque) == (3, 2)
    assert "result" not in done
    done, opaque = h.fork().task(call(int, "x"), mode="call")
    assert done["exception"]["class"] == "ValueError"
    assert isinstance(_results.loads(opaque), ValueError)
    done, opaque = h.fork().task(b"not a pickle", mode="call")
    assert done["exception"]["class"].endswith("UnpicklingError")


def test_a_hundred_unseeded_agents_draw_a_hundred_numbers(host: Any) -> None:
    h = host("import random\ndef run(config):\n    return random.random()\n")
    h.event()
    drawn = {h.fork().task(seed=(seed * 0x9E3779B97F4A7C15) % 2**64)[0]["result"] for seed in range(100)}
    assert len(drawn) == 100


def test_numpy_is_reseeded_and_its_results_are_plain(host: Any) -> None:
    pytest.importorskip("numpy")
    h = host("def run(config):\n    import numpy as np\n    return np.random.rand(3)\n", preload=["numpy"])
    event = h.event()
    assert event["event"] == "ready", event
    one, two, again = (h.fork().task(seed=s)[0]["result"] for s in (2**63 + 1, 2**63 + 2, 2**63 + 1))
    assert one == again != two
    assert len(one) == 3


def test_the_control_socket_reports_a_failed_fork_and_goes_on(host: Any) -> None:
    h = host(RUN)
    h.event()
    h.control.send(b"!")
    event = h.event()
    assert (event["event"], event["errno"]) == ("error", 11)
    assert h.fork().task(config={"x": 1})[0]["result"]["sum"] == 101


def test_a_child_of_a_task_has_no_socket(host: Any) -> None:
    h = host(
        """
        import os
        def run(config):
            r, w = os.pipe()
            if os.fork() == 0:
                try:
                    os.fstat(3)
                    os.write(w, b"open")
                except OSError:
                    os.write(w, b"closed")
                os._exit(0)
            return os.read(r, 10).decode()
        """
    )
    h.event()
    assert h.fork().task()[0]["result"] == "closed"


@pytest.mark.parametrize(
    ("script", "module", "spec", "parts"),
    [
        (None, None, {"preload": ["no_such_module"]}, ["importing no_such_module failed", "ModuleNotFoundError"]),
        (None, "1/0", {"preload": ["own_module"]}, ["importing own_module failed: ZeroDivisionError"]),
        (None, "import sys; sys.exit('no licence')", {"preload": ["own_module"]}, ["sys.exit('no licence')"]),
        ("x = 1", None, {}, ["train.py defines no function `run`"]),
        ("def run(a, b, c): pass", None, {}, ["run(a, b, c) can't be called with (config, shared)"]),
        ("def run(c): pass\nx = y", None, {}, ["loading", "train.py failed: NameError"]),
        ("def run(c): pass\ndef setup(): raise OSError('no data')", None, {}, ["setup() failed: OSError: no data"]),
        ("def run(c): pass", None, {"setup": "own_module:nothing"}, ["own_module for its setup"]),
        ("def run(c): pass", "y = 1", {"setup": "own_module:y"}, ["no function 'y' in own_module"]),
        (
            None,
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
            {"preload": ["json", "own_module"]},
            ["1 thread still ran", "started by: own_module", "leave that module out of the preload"],
        ),
        (
            "import own_module\ndef run(c): pass",
            "f = open('/etc/passwd')",
            {},
            ["1 descriptor stayed open", "opened by: own_module (/etc/passwd)"],
        ),
        (
            "def run(c): pass\ndef setup():\n    import socket\n    global s\n    s = socket.socket()",
            None,
            {},
            ["opened by: setup() (socket:["],
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_a_template_is_named(
    host: Any, script: Optional[str], module: Optional[str], spec: Dict[str, Any], parts: List[str]
) -> None:
    h = host(script, module, **spec)
    event = h.event()
    assert event["event"] == "failed"
    for part in parts:
        assert part in event["message"]
    assert "_import_watch.py" not in event["traceback"]
    assert "importlib" not in event["traceback"]
    assert h.stop() == 1


def test_it_says_what_it_has_begun(host: Any) -> None:
    h = host("def setup(): return 1\ndef run(config): return 1", preload=["json"])
    h.event()
    assert [what.split(" /")[0] for what in h.doing] == ["importing json", "loading", "setup()"]


def test_a_result_that_is_too_large_is_refused_by_its_size(host: Any) -> None:
    h = host("def run(config): return 'x' * config")
    h.event()
    assert len(h.fork().task(config=(8 << 20) - 1000)[0]["result"]) == (8 << 20) - 1000
    done, _ = h.fork().task(config=9 << 20)
    assert "result" not in done
    assert done["exception"]["class"] == "cloveos.NotStorable"
    assert done["exception"]["message"].startswith("result: 9.0 MiB as JSON, and at most 8 MiB are kept; ")


def test_a_thread_that_ends_by_itself_and_a_closed_file_are_fine(host: Any) -> None:
    h = host(
        "import own_module\ndef run(c):\n    return 1\n",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(0.15,)).start()\nopen('/etc/passwd').close()",
    )
    assert h.event()["event"] == "ready"
    assert h.fork().task()[0]["result"] == 1


def test_the_traceback_shows_the_users_part(host: Any) -> None:
    event = host(None, "def inner():\n    raise KeyError('deep')\ninner()", preload=["own_module"]).event()
    assert event["traceback"].count("own_module.py") == 2
    assert "KeyError: 'deep'" in event["traceback"]
    assert "_template.py" not in event["traceback"]


def test_cuda_is_refused(host: Any) -> None:
    event = host(
        None,
        "import sys, types\nt = types.ModuleType('torch')\nt.cuda = types.SimpleNamespace(is_initialized=lambda: True)\n"
        "sys.modules['torch'] = t",
        preload=["own_module"],
    ).event()
    assert "CUDA was initialised" in event["message"]


def test_the_users_path_holds_nothing_of_ours(host: Any) -> None:
    h = host("import sys\ndef run(c):\n    return [sys.path, sys.modules['__main__'].__name__]\n")
    h.event()
    path = h.fork().task()[0]["result"][0]
    assert str(HOST.parent) not in path
    assert str(HOST.parents[1]) not in path


def test_dataclasses_and_pickles_of_a_script_find_it(host: Any) -> None:
    h = host(
        """
        from __future__ import annotations
        import dataclasses, pickle
        @dataclasses.dataclass
        class Point:
            x: int
        def run(config):
            import train
            return pickle.loads(pickle.dumps(Point(4))).x + (train.Point is Point)
        """
    )
    event = h.event()
    assert event["event"] == "ready", event
    assert h.fork().task()[0].get("result") == 5


def test_blas_pools_are_single_threaded(host: Any) -> None:
    pytest.importorskip("numpy")
    h = host(
        """
        import os
        import numpy as np
        def setup():
            return np.ones((400, 400)) @ np.ones((400, 400))
        def run(config, shared):
            np.ones((600, 600)) @ np.ones((600, 600))
            return len(os.listdir("/proc/self/task"))
        """
    )
    assert h.event()["event"] == "ready"
    assert h.fork().task(threads=1)[0]["result"] == 1
    if (os.cpu_count() or 1) > 1:
        assert h.fork().task(threads=2)[0]["result"] == 2
