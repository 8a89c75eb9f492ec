"""The futures of an Executor behave as those of a ProcessPoolExecutor, over a fake kernel that really runs the calls."""

from __future__ import annotations

import concurrent.futures as cf
import gc
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import tasks
from fake_kernel import FakeKernel

from cloveos import AgentDied, Certificate, Executor, RemoteError, SysError, UntrustedResult
from cloveos.errors import ConnectionLost

PRIMES = [112272535095293, 112582705942171, 112272535095293, 115280095190773, 115797848077099, 1099726899285419]


def test_the_documentation_example(kernel: FakeKernel) -> None:
    with Executor() as executor:
        found = list(zip(PRIMES, executor.map(tasks.is_prime, PRIMES)))
    assert found == [(n, n != 1099726899285419) for n in PRIMES]
    warm = kernel.runs["r1"].spec["program"]["warm"]
    assert warm["preload"][0] == "tasks"
    assert warm["python"] == os.path.abspath(sys.executable)


def test_submit_result_and_callbacks(kernel: FakeKernel) -> None:
    called = []
    with Executor(max_workers=2) as executor:
        assert isinstance(executor, cf.Executor)
        future = executor.submit(tasks.add, 2, b=3)
        future.add_done_callback(lambda f: called.append(f.result()))
        assert future.result(timeout=20) == 5
        assert future.done()
        assert not future.running()
        futures = [executor.submit(tasks.add, i, i) for i in range(50)]
        assert {f.result() for f in cf.as_completed(futures)} == {2 * i for i in range(50)}
        done, not_done = cf.wait(futures)
        assert len(done) == 50
        assert not not_done
        assert len({executor.submit(tasks.pid).result() for _ in range(3)} | {os.getpid()}) == 4
    assert called == [5]


def test_map_with_chunks_and_timeout(kernel: FakeKernel) -> None:
    with Executor(2) as executor:
        assert list(executor.map(tasks.add, range(10), range(10), chunksize=3)) == list(range(0, 20, 2))
        assert len(kernel.runs["r1"].tasks) == 4
        with pytest.raises(ValueError, match="chunksize"):
            executor.map(tasks.add, [1], chunksize=0)
        results = executor.map(tasks.sleep, [0.0, 60.0], timeout=3)
        assert next(results) == 0.0
        with pytest.raises(cf.TimeoutError):
            next(results)
        executor.shutdown(wait=False, cancel_futures=True)
        kernel.runs["r1"].cancel(None)


def test_exceptions_come_back_as_what_they_were(kernel: FakeKernel) -> None:
    with Executor(2) as executor:
        with pytest.raises(ValueError, match="no such thing") as caught:
            executor.submit(tasks.raise_value_error, "no such thing").result()
        assert "raise_value_error" in str(caught.value.__cause__)
        assert "_agent.py" not in str(caught.value.__cause__)
        with pytest.raises(RemoteError) as own:
            executor.submit(tasks.raise_own).result()
        assert own.value.class_name == "tasks.OwnError"
        assert own.value.message == "1 and 2"
        assert "raise_own" in own.value.traceback
        with pytest.raises(RemoteError, match="KeyboardInterrupt"):
            executor.submit(tasks.interrupt).result()
    with Executor(1, trust_results=True) as executor, pytest.raises(RemoteError, match="OwnError"):
        # Its class can't be built from its args alone; the words remain.
        executor.submit(tasks.raise_own).result()


def test_a_missing_file_that_is_here_names_the_mount(kernel: FakeKernel, tmp_path: Path) -> None:
    path = tmp_path / "appears.txt"
    with Executor(1) as executor:
        future = executor.submit(tasks.open_file, str(path))
        cf.wait([future])
        # The fake kernel has no walls: let the file appear between the failure and the look at it.
        with pytest.raises(FileNotFoundError):
            future.result()
        path.write_text("x")
        from cloveos._outcome import _note

        assert "mounts=" in _note(FileNotFoundError(2, "no", str(path)))


def test_a_death_has_a_certificate(kernel: FakeKernel) -> None:
    with Executor(2) as executor:
        crashed = executor.submit(tasks.crash)
        left = executor.submit(tasks.leave, 3)
        with pytest.raises(AgentDied, match="signal: killed by a signal; its last line: last words") as caught:
            crashed.result()
        certificate = caught.value.certificate
        assert certificate is not None
        assert (certificate.cause, certificate.signal, certificate.attempt) == ("signal", 11, 1)
        assert certificate.usage.peak_memory_bytes == 5
        assert certificate.wall_seconds == 1.5
        assert certificate.to_dict()["usage"]["peak_memory_bytes"] == 5
        again = pickle.loads(pickle.dumps(caught.value))
        assert again.certificate == certificate
        with pytest.raises(AgentDied) as exited:
            left.result()
        assert exited.value.certificate is not None
        assert exited.value.certificate.exit_code == 3
        assert executor.submit(tasks.add, 1, 1).result() == 2, "the others don't notice"


def test_a_crash_says_where_python_was() -> None:
    tail = (
        "epoch 1\nFatal Python error: Segmentation fault\n\nCurrent thread 0x7f (most recent call first):\n"
        '  File "/x/train.py", line 8 in work\n  File "/opt/clove/_agent.py", line 3 in _timed\n'
    )
    died = AgentDied.of(Certificate(cause="signal", message="it crashed", suggestion="try\x1b[31m this", tail=tail))
    assert str(died) == r'signal: it crashed (try\x1b[31m this); in File "/x/train.py", line 8 in work'
    assert str(AgentDied.of(Certificate(cause="oom", message="too much"))) == "oom: too much"


def test_retries(kernel: FakeKernel) -> None:
    with Executor(1, retries=2) as executor:
        assert executor.submit(tasks.crash_once, "").result() == "2"


def test_results_are_restricted_unless_trusted(kernel: FakeKernel) -> None:
    with (
        Executor(1) as executor,
        pytest.raises((UntrustedResult, TypeError), match=r"tasks\.Point.*trust_results=True"),
    ):
        executor.submit(tasks.make_point).result()
    with Executor(1, trust_results=True) as executor:
        assert executor.submit(tasks.make_point).result() == tasks.Point(1, 2)


def test_large_values_go_as_blobs(kernel: FakeKernel) -> None:
    data = os.urandom(9 << 20)
    with Executor(1) as executor:
        assert executor.submit(tasks.echo, data).result() == data
    assert kernel.blob_fds == 2, "one there, one back"


def test_cancel_of_waiting_and_running_calls(kernel: FakeKernel) -> None:
    with Executor(1) as executor:
        slow = executor.submit(tasks.sleep, 2)
        waiting = [executor.submit(tasks.add, i) for i in range(5)]
        deadline = time.monotonic() + 10
        while not slow.running() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert slow.running()
        assert not slow.cancel(), "a running call can't be cancelled"
        assert waiting[2].cancel()
        assert waiting[2].cancelled()
        with pytest.raises(cf.CancelledError):
            waiting[2].result()
        done, _ = cf.wait(waiting, timeout=30)
        assert waiting[2] in done
        assert [f.result() for i, f in enumerate(waiting) if i != 2] == [0, 1, 3, 4]
    # Dropped before it was pushed, or cancelled in the kernel.
    states = [task.state for task in kernel.runs["r1"].tasks]
    assert states in (["done"] * 5, ["done"] * 3 + ["cancelled"] + ["done"] * 2)


def test_shutdown_waits_and_refuses(kernel: FakeKernel) -> None:
    executor = Executor(2)
    futures = [executor.submit(tasks.sleep, 0.2) for _ in range(4)]
    executor.shutdown()
    assert all(f.done() for f in futures)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(tasks.add, 1)
    assert [name for name, _ in kernel.calls].count("run.close") == 1


def test_shutdown_that_cancels(kernel: FakeKernel) -> None:
    executor = Executor(1)
    first = executor.submit(tasks.sleep, 1)
    rest = [executor.submit(tasks.sleep, 30) for _ in range(5)]
    deadline = time.monotonic() + 10
    while not first.running() and time.monotonic() < deadline:
        time.sleep(0.01)
    executor.shutdown(cancel_futures=True)
    assert first.result() == 1
    assert all(f.cancelled() for f in rest)


def test_shutdown_without_waiting_still_runs_all(kernel: FakeKernel) -> None:
    executor = Executor(2)
    futures = [executor.submit(tasks.add, i) for i in range(4)]
    executor.shutdown(wait=False)
    assert [f.result(timeout=20) for f in futures] == [0, 1, 2, 3]


def test_a_dropped_executor_still_runs_all(kernel: FakeKernel) -> None:
    futures = [Executor(2).submit(tasks.add, i) for i in range(2)]
    gc.collect()
    assert [f.result(timeout=20) for f in futures] == [0, 1]


def test_many_threads_submit(kernel: FakeKernel) -> None:
    totals = []
    with Executor(2) as executor:

        def work(n: int) -> None:
            totals.append(sum(f.result() for f in [executor.submit(tasks.add, n, i) for i in range(25)]))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert sorted(totals) == [25 * n + 300 for n in range(6)]


def test_pushes_are_batched_and_survive_a_full_queue(kernel: FakeKernel) -> None:
    kernel.full = 3
    with Executor(2) as executor:
        assert list(executor.map(tasks.add, range(100))) == list(range(100))
    pushes = [args for name, args in kernel.calls if name == "run.push"]
    assert len(pushes) < 60


def test_a_callback_may_submit(kernel: FakeKernel) -> None:
    second: cf.Future[cf.Future[int]] = cf.Future()
    with Executor(1) as executor:
        first = executor.submit(tasks.add, 1)
        first.add_done_callback(lambda f: second.set_result(executor.submit(tasks.add, f.result(), 10)))
        assert second.result(timeout=20).result(timeout=20) == 11


def test_initializer_runs_once_in_each_process(kernel: FakeKernel) -> None:
    with Executor(1, initializer=tasks.remember, initargs=("hello",)) as executor:
        assert [executor.submit(tasks.remembered).result() for _ in range(2)] == [["hello"], ["hello"]]
    with Executor(1, initializer=tasks.raise_value_error, initargs=("bad start",)) as executor:
        with pytest.raises(ValueError, match="bad start"):
            executor.submit(tasks.remembered).result()


def test_setup_seed_env_and_cwd(kernel: FakeKernel) -> None:
    with Executor(2, setup=tasks.make_shared, seed=5, env={"COLOUR": "blue"}) as executor:
        assert executor.submit(tasks.shared).result() == {"answer": 42}
        draws = [f.result() for f in [executor.submit(tasks.draw) for _ in range(20)]]
        assert len(set(draws)) == 20
        assert executor.submit(tasks.environment, "COLOUR").result() == "blue"
    with Executor(2, seed=5) as executor:
        executor.submit(tasks.pid).result()
        assert [f.result() for f in [executor.submit(tasks.draw) for _ in range(20)]] == draws


def test_what_cannot_be_pickled_fails_its_future_only(kernel: FakeKernel) -> None:
    with Executor(1) as executor:
        with pytest.raises((pickle.PicklingError, TypeError)):
            executor.submit(tasks.echo, threading.Lock()).result()
        assert executor.submit(tasks.add, 1).result() == 1


def test_lambdas_need_cloudpickle(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    with Executor(1) as executor:
        monkeypatch.setitem(sys.modules, "cloudpickle", None)
        with pytest.raises(pickle.PicklingError, match="pip install cloudpickle"):
            executor.submit(lambda: 1).result()
        monkeypatch.undo()
        monkeypatch.setenv("CLOVE_SOCKET", kernel.path)
        pytest.importorskip("cloudpickle")
        offset = 40
        assert executor.submit(lambda x: x + offset, 2).result() == 42


def test_a_template_that_fails_tells_every_future(kernel: FakeKernel) -> None:
    executor = Executor(1, preload=["no_such_module_at_all"])
    futures = [executor.submit(tasks.add, i) for i in range(3)]
    for future in futures:
        with pytest.raises((SysError, AgentDied), match="no_such_module_at_all"):
            future.result(timeout=20)
    executor.shutdown()


def test_a_run_that_fails_with_its_tasks_cancelled(kernel: FakeKernel) -> None:
    # As the kernel answers when a mount is refused.
    executor = Executor(1)
    future = executor.submit(tasks.sleep, 60)
    while not kernel.runs or not kernel.runs["r1"].tasks or not kernel.runs["r1"].tasks[0].pid:
        time.sleep(0.01)
    run = kernel.runs["r1"]
    run.failed = "mount /x is refused"
    with run.changed:
        run.tasks[0].state = "cancelled"
        run._end(run.tasks[0])
    with pytest.raises(SysError, match="E0603: mount /x is refused"):
        future.result(timeout=20)
    executor.shutdown()


def test_a_kernel_that_dies_breaks_the_executor(kernel: FakeKernel) -> None:
    executor = Executor(1)
    future = executor.submit(tasks.sleep, 60)
    kernel.stop()
    with pytest.raises(ConnectionLost):
        future.result(timeout=20)
    with pytest.raises(ConnectionLost):
        executor.submit(tasks.add, 1)
    executor.shutdown()


def test_ctrl_c_ends_the_run(kernel: FakeKernel) -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Executor(1) as executor:
        future = executor.submit(tasks.sleep, 60)
        while not kernel.runs or not kernel.runs["r1"].tasks or not kernel.runs["r1"].tasks[0].pid:
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert time.monotonic() - started < 20
    with pytest.raises(AgentDied, match="cancelled"):
        future.result()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_workers": 0}, ValueError, "greater than 0"),
        ({"mp_context": "spawn"}, TypeError, "mp_context"),
        ({"memory": "lots"}, ValueError, "memory = 'lots' isn't a size"),
        ({"memory": -5}, ValueError, "memory"),
        ({"cpu": 0}, ValueError, "cpu"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": float("nan")}, ValueError, "timeout"),
        ({"pids": 0}, ValueError, "pids"),
        ({"preload": "numpy"}, TypeError, r"\['numpy'\]"),
        ({"setup": "numpy"}, ValueError, "module:function"),
        ({"setup": lambda: 1}, TypeError, "by name"),
        ({"mounts": ["/no/such/place:/x"]}, ValueError, "doesn't exist"),
        ({"mounts": ["/usr:/x:yes"]}, ValueError, "SRC:DST"),
        ({"initializer": 5}, TypeError, "callable"),
        ({"profile": "lax"}, ValueError, "'default' or 'strict'"),
        ({"reuse": -1}, ValueError, "reuse"),
    ],
)
def test_bad_options_say_which(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Executor(**options)


def test_options_reach_the_spec(kernel: FakeKernel, tmp_path: Path) -> None:
    mount = f"{tmp_path}:/data:rw"
    with Executor(
        3, memory="512m", cpu=0.5, timeout=1.5, pids=64, disk="1g", reuse=7, retries=4, name="mine", mounts=[mount],
        profile="strict",
    ) as executor:  # fmt: skip
        executor.submit(tasks.pid).result()
    spec = kernel.runs["r1"].spec
    assert spec["profile"] == "strict"
    assert spec["limits"] == {
        "memory_bytes": 512 << 20, "cpu_milli": 500, "wall_ms": 1500, "pids": 64, "disk_bytes": 1 << 30,
    }  # fmt: skip
    assert (spec["jobs"], spec["reuse"], spec["name"], spec["attached"], spec["kind"]) == (
        3,
        7,
        "mine",
        True,
        "executor",
    )
    assert spec["retry"] == {"deaths": 4, "failures": 0}
    assert {"source": str(tmp_path), "target": "/data", "writable": True} in spec["mounts"]


SCRIPT = """
import concurrent.futures
import math
from cloveos import Executor

PRIMES = [112272535095293, 112582705942171, 1099726899285419]
FACTOR = 3

def is_prime(n):
    if n % 2 == 0:
        return False
    return all(n % i for i in range(3, math.floor(math.sqrt(n)) + 1, 2))

def triple(x):
    return x * FACTOR

class Point:
    def __init__(self, x):
        self.x = x

def main():
    with Executor() as executor:
        for number, prime in zip(PRIMES, executor.map(is_prime, PRIMES)):
            print('%d is prime: %s' % (number, prime))
        future_to_x = {executor.submit(triple, x): x for x in range(3)}
        for future in concurrent.futures.as_completed(future_to_x):
            assert future.result() == 3 * future_to_x[future]
        print("done")
    with Executor(trust_results=True) as executor:
        print(type(executor.submit(Point, 4).result()) is Point)

if __name__ == '__main__':
    main()
"""


def run_script(kernel: FakeKernel, path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args, str(path)],
        env={**os.environ, "CLOVE_SOCKET": kernel.path, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_functions_of_the_main_script(kernel: FakeKernel, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = run_script(kernel, script)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "112272535095293 is prime: True",
        "112582705942171 is prime: True",
        "1099726899285419 is prime: False",
        "done",
        "True",
    ]
    spec = kernel.runs["r1"].spec
    assert spec["program"]["warm"]["preload"][-1] == f"__main__:{script}"
    assert {"source": str(tmp_path), "target": str(tmp_path), "writable": False} in spec["mounts"]


def test_a_script_without_a_guard(kernel: FakeKernel, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from cloveos import Executor
            if len(sys.argv) > 1:
                sys.modules["cloudpickle"] = None
            def double(x):
                return 2 * x
            with Executor(2) as ex:
                print(list(ex.map(double, range(3))))
            """
        )
    )
    pytest.importorskip("cloudpickle")
    done = run_script(kernel, script)
    assert (done.stdout, done.stderr) == ("[0, 2, 4]\n", "")


def test_without_a_guard_or_cloudpickle_the_error_says_so(kernel: FakeKernel, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nsys.modules['cloudpickle'] = None\nfrom cloveos import Executor\n"
        "def f(x):\n    return x\nwith Executor() as ex:\n    print(list(ex.map(f, [1])))\n"
    )
    done = run_script(kernel, script)
    assert done.returncode == 1
    assert 'has no `if __name__ == "__main__":`' in done.stderr
    assert "pip install cloudpickle" in done.stderr


def test_work_started_while_a_template_is_built_is_refused(kernel: FakeKernel, tmp_path: Path) -> None:
    module = tmp_path / "eager.py"
    module.write_text(
        "from cloveos import Executor\nimport tasks\ndef f(): return 1\n"
        "import os\nif 'CLOVE_SOCKET' not in os.environ:\n    Executor().submit(f)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import eager

        with Executor(1) as executor, pytest.raises((SysError, AgentDied), match="starts work while it is imported"):
            executor.submit(eager.f).result(timeout=30)
    finally:
        sys.path.remove(str(tmp_path))


def test_the_interpreter_waits_for_what_was_submitted(kernel: FakeKernel, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\nfrom cloveos import Executor\n"
        "def f(): time.sleep(0.5); return 7\n"
        "if __name__ == '__main__':\n"
        "    Executor(1).submit(f).add_done_callback(lambda f: print(f.result(), flush=True))\n"
    )
    done = run_script(kernel, script)
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_a_forked_child_ends_without_waiting(kernel: FakeKernel) -> None:
    with Executor(1) as executor:
        future = executor.submit(tasks.sleep, 0.5)
        pid = os.fork()
        if pid == 0:
            try:
                executor.submit(tasks.add, 1)
            except RuntimeError as e:
                from cloveos import _session

                executor.shutdown()
                _session._wait_for_all()
                os._exit(0 if "parent process" in str(e) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert future.result(timeout=20) == 0.5
