"""The Executor over the real kernel, with real walls and limits."""

from __future__ import annotations

import concurrent.futures as cf
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
import tasks

from cloveos import AgentDied, Client, Executor, RemoteError, UntrustedResult

pytestmark = pytest.mark.skipif(
    not os.environ.get("CLOVE_BIN"), reason="CLOVE_BIN isn't set: it names the clove program to test with"
)


@pytest.fixture(scope="module", autouse=True)
def data_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A kernel of its own for this file."""
    home = tmp_path_factory.mktemp("clove")
    before = os.environ.get("CLOVE_HOME")
    os.environ["CLOVE_HOME"] = str(home)
    yield
    subprocess.run([os.environ["CLOVE_BIN"], "stop"], check=False, capture_output=True, timeout=60)
    if before is None:
        del os.environ["CLOVE_HOME"]
    else:
        os.environ["CLOVE_HOME"] = before


def hog() -> int:
    held = []
    while True:
        held.append(bytearray(4 << 20))


def spin() -> None:
    while True:
        pass


def forks() -> int:
    made = 0
    try:
        while made < 200:
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
            made += 1
    except BlockingIOError:
        return made
    return made


def host_view() -> dict[str, Any]:
    import socket

    def connects() -> str:
        try:
            socket.create_connection(("1.1.1.1", 53), timeout=2).close()
        except OSError as e:
            return type(e).__name__
        return "connected"

    return {
        "uid": os.getuid(),
        "pids": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()),
        "home": os.path.exists("/root/.bashrc") or os.path.exists(os.path.expanduser("~/.ssh")),
        "network": connects(),
    }


def test_the_documentation_examples() -> None:
    with Executor() as executor:
        primes = [112272535095293, 112582705942171, 115280095190773, 1099726899285419]
        assert list(executor.map(tasks.is_prime, primes)) == [True, True, True, False]
        futures = {executor.submit(tasks.add, i, i): i for i in range(40)}
        assert all(f.result() == 2 * futures[f] for f in cf.as_completed(futures))


def test_a_leak_and_a_crash_leave_the_others_alone() -> None:
    with Executor(memory="128m") as executor:
        leak = executor.submit(hog)
        crash = executor.submit(tasks.crash)
        others = [executor.submit(tasks.add, i) for i in range(20)]
        assert [f.result(timeout=60) for f in others] == list(range(20))
        with pytest.raises(AgentDied) as oom:
            leak.result(timeout=60)
        assert oom.value.certificate is not None
        assert oom.value.certificate.cause == "oom"
        with pytest.raises(AgentDied) as died:
            crash.result(timeout=60)
        assert died.value.certificate is not None
        assert (died.value.certificate.cause, died.value.certificate.signal) == ("signal", 11)


def test_no_options_and_a_leak() -> None:
    with Executor() as executor:
        leak = executor.submit(hog)
        assert executor.submit(tasks.add, 1).result(timeout=60) == 1
        with pytest.raises(AgentDied, match="oom"):
            leak.result(timeout=300)


def test_limits_name_their_cause() -> None:
    with Executor(timeout=1) as executor, pytest.raises(AgentDied, match="timeout"):
        executor.submit(spin).result(timeout=60)
    with Executor(pids=16) as executor:
        assert executor.submit(forks).result(timeout=60) < 16


def test_isolation() -> None:
    with Executor() as executor:
        seen = executor.submit(host_view).result(timeout=60)
    assert seen["uid"] != 0
    assert len(seen["pids"]) < 5
    assert not seen["home"]
    assert seen["network"] != "connected"


def test_retries_exits_and_exceptions() -> None:
    with Executor(retries=2) as executor:
        assert executor.submit(tasks.crash_once, "").result(timeout=60) == "2"
    with Executor() as executor:
        with pytest.raises(AgentDied) as left:
            executor.submit(tasks.leave, 3).result(timeout=60)
        assert left.value.certificate is not None
        assert left.value.certificate.exit_code == 3
        with pytest.raises(ValueError, match="bad"):
            executor.submit(tasks.raise_value_error, "bad").result(timeout=60)
        with pytest.raises(RemoteError, match="OwnError"):
            executor.submit(tasks.raise_own).result(timeout=60)
        with pytest.raises((UntrustedResult, TypeError), match="trust_results"):
            executor.submit(tasks.make_point).result(timeout=60)


def test_draws_seeds_and_fresh_processes() -> None:
    with Executor(seed=7) as executor:
        draws = [f.result(timeout=60) for f in [executor.submit(tasks.draw) for _ in range(100)]]
    assert len(set(draws)) == 100
    with Executor(seed=7) as executor:
        assert [f.result(timeout=60) for f in [executor.submit(tasks.draw) for _ in range(100)]] == draws
    with Executor(1, reuse=5) as executor:
        for i in range(5):
            executor.submit(tasks.remember, i).result(timeout=60)


def test_large_values() -> None:
    data = os.urandom(20 << 20)
    with Executor() as executor:
        assert executor.submit(tasks.echo, data).result(timeout=120) == data
        assert len(executor.submit(tasks.large, 30 << 20).result(timeout=120)) == 30 << 20


def test_cancel_kills_what_has_not_started() -> None:
    with Executor(1) as executor:
        first = executor.submit(tasks.sleep, 1)
        rest = [executor.submit(tasks.sleep, 60) for _ in range(3)]
        assert all(f.cancel() for f in rest)
        assert first.result(timeout=60) == 1


def test_what_an_interrupted_program_leaves_behind(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\nfrom cloveos import Executor\n"
        "def f():\n    time.sleep(600)\n"
        "if __name__ == '__main__':\n    with Executor(1) as ex:\n        fut = ex.submit(f)\n"
        "        print('started', flush=True)\n        fut.result()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    time.sleep(1)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    with Client() as client:
        while time.monotonic() < deadline:
            alive = [a for a in client.call("proc.list", {"all": False})[0]["agents"] if a.get("task") is not None]
            if not alive:
                return
            time.sleep(0.1)
    raise AssertionError(f"still alive: {alive}")


def leave_files() -> list[str]:
    import cloveos

    found = []
    for folder in (cloveos.out_dir(), cloveos.checkpoint_dir()):
        found += [str(p) for p in folder.rglob("*")]
        (folder / "sub").mkdir()
        (folder / "sub" / "file.txt").write_text("x")
    return found


def test_the_next_call_of_a_worker_finds_its_own_empty_folders() -> None:
    with Executor(1, reuse=10) as executor:
        assert [executor.submit(leave_files).result(timeout=60) for _ in range(4)] == [[], [], [], []]
