"""The Python SDK's `Executor` in programs of their own, as users write them."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
from house import ROOT, Ended, House

PREAMBLE = "from cloveos import AgentDied, Executor\n"


def sdk() -> str:
    """The SDK beside the binary under test, when it is a copy; else the repository's."""
    from house import binary

    beside = binary().parents[2] / "python"
    return str(beside if (beside / "cloveos").is_dir() else ROOT / "python")


def program(house: House, text: str, name: str = "main.py", python: str = sys.executable) -> Ended:
    path = house.write(name, PREAMBLE + textwrap.dedent(text))
    return house.any([python, str(path)], env={"CLOVE_BIN": house.clove_bin, "PYTHONPATH": sdk()})


PRIMES = """
    import concurrent.futures
    import math
    {imports}

    PRIMES = [
        112272535095293,
        112582705942171,
        112272535095293,
        115280095190773,
        115797848077099,
        1099726899285419]

    def is_prime(n):
        if n < 2:
            return False
        if n == 2:
            return True
        if n % 2 == 0:
            return False

        sqrt_n = int(math.floor(math.sqrt(n)))
        for i in range(3, sqrt_n + 1, 2):
            if n % i == 0:
                return False
        return True

    def main():
        with {pool}() as executor:
            for number, prime in zip(PRIMES, executor.map(is_prime, PRIMES)):
                print('%d is prime: %s' % (number, prime))

    if __name__ == '__main__':
        main()
"""


def test_the_documentations_example_with_the_import_changed(house: House) -> None:
    ours = program(
        house, PRIMES.format(imports="from cloveos import Executor as ProcessPoolExecutor", pool="ProcessPoolExecutor")
    )
    theirs = program(house, PRIMES.format(imports="", pool="concurrent.futures.ProcessPoolExecutor"), "theirs.py")
    assert ours == theirs and ours.out.count("True") == 5, f"\n{ours}\n{theirs}"


FAULTS = """
    import ctypes, os
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    def work(k):
        if k == 3:
            ctypes.string_at(0)
        if k == 5:
            x = []
            while True:
                x.append(bytearray(1 << 20))
        return k * k

    if __name__ == "__main__":
        with Executor(memory="200m") as pool:
            futures = [pool.submit(work, k) for k in range(12)]
        for k, f in enumerate(futures):
            try:
                print(k, f.result())
            except AgentDied as e:
                print(k, "died", e.certificate.cause)
"""


def test_one_leaks_and_one_crashes_and_all_others_return(house: House) -> None:
    ended = program(house, FAULTS).ok()
    expected = {3: "3 died signal", 5: "5 died oom"}
    assert ended.out.splitlines() == [expected.get(k, f"{k} {k * k}") for k in range(12)], f"\n{ended}"


def test_without_options_a_leak_ends_at_the_default_limit(house: House) -> None:
    # The default limit is that of the host; the leak is made to be quick where memory is plenty.
    ended = program(
        house,
        FAULTS.replace('Executor(memory="200m")', "Executor()").replace(
            "bytearray(1 << 20)", "bytearray(b'x') * (64 << 20)"
        ),
    )
    assert "5 died oom" in ended.out and "3 died signal" in ended.out and ended.out.count("died") == 2, f"\n{ended}"


def test_the_control_a_process_pool_breaks_whole(house: House) -> None:
    ended = program(house, """
        import ctypes, os
        from concurrent.futures import ProcessPoolExecutor
        from concurrent.futures.process import BrokenProcessPool

        def work(k):
            if k == 3:
                ctypes.string_at(0)
            return k * k

        if __name__ == "__main__":
            with ProcessPoolExecutor() as pool:
                futures = [pool.submit(work, k) for k in range(200)]
            print(sum(isinstance(f.exception(), BrokenProcessPool) for f in futures) > 1)
    """)  # fmt: skip
    assert ended.out == "True\n", f"\n{ended}"


def test_the_rest_of_the_interface(house: House) -> None:
    ended = program(house, """
        import os, time
        from concurrent.futures import as_completed, wait, TimeoutError, CancelledError

        class Mine(Exception):
            pass

        def fails(kind):
            if kind == "key": raise KeyError("k")
            if kind == "os": raise FileNotFoundError(2, "gone", "/x")
            if kind == "mine": raise Mine("own")
            raise ValueError("v") from TypeError("cause")

        def sleepy(s): time.sleep(s); return s
        def add(a, b=0, *, c=0): return a + b + c
        def big(data): return data[::-1]

        if __name__ == "__main__":
            with Executor(2) as ex:
                assert ex.submit(add, 1, b=2, c=3).result() == 6
                assert list(ex.map(add, range(50), range(50), chunksize=7)) == [2 * i for i in range(50)]
                assert sorted(f.result() for f in as_completed([ex.submit(add, i) for i in range(5)])) == [0, 1, 2, 3, 4]
                for kind, cls in [("key", KeyError), ("os", FileNotFoundError), ("v", ValueError)]:
                    e = ex.submit(fails, kind).exception()
                    assert type(e) is cls, (kind, type(e))
                    assert "RemoteTraceback" in type(e.__cause__).__name__ and "in fails" in str(e.__cause__), e.__cause__
                assert e.args == ("v",)
                e = ex.submit(fails, "mine").exception()
                print(type(e).__name__, e)
                data = os.urandom(20 << 20)
                assert ex.submit(big, data).result() == data[::-1]
                try:
                    ex.submit(sleepy, 30).result(timeout=0.2)
                except TimeoutError:
                    print("timeout")
                for f in [f for f in [ex.submit(sleepy, 30) for _ in range(6)]]:
                    f.cancel()
                ex.shutdown(wait=False, cancel_futures=True)
                try:
                    ex.submit(add, 1)
                except RuntimeError as e:
                    print("RuntimeError", e)
                os._exit(0)
    """)  # fmt: skip
    assert ended.code == 0, f"\n{ended}"
    assert ended.out.splitlines()[1:] == [] or "timeout" in ended.out, f"\n{ended}"


def test_cancelled_futures_never_run(house: House) -> None:
    marks = house.work / "marks"
    marks.mkdir()
    ended = program(house, f"""
        import time
        def mark(i):
            open(f"/marks/{{i}}", "w").close()
            time.sleep(0.3)
            return i
        if __name__ == "__main__":
            with Executor(1, mounts=["{marks}:/marks:rw"]) as ex:
                futures = [ex.submit(mark, i) for i in range(8)]
                futures[0].result()
                cancelled = [f.cancel() for f in futures[4:]]
            print(cancelled, [f.cancelled() for f in futures])
    """)  # fmt: skip
    assert ended.code == 0 and ended.out.startswith("[True, True, True, True]"), f"\n{ended}"
    assert sorted(p.name for p in marks.iterdir()) == ["0", "1", "2", "3"]


def test_a_lambda_without_cloudpickle_says_what_to_do(house: House) -> None:
    ended = program(house, """
        import sys
        sys.modules["cloudpickle"] = None
        if __name__ == "__main__":
            with Executor() as ex:
                print(ex.submit(lambda: 1).exception())
    """)  # fmt: skip
    assert "cloudpickle" in ended.out, f"\n{ended}"


def test_lambdas_and_closures_with_cloudpickle(house: House) -> None:
    pytest.importorskip("cloudpickle")
    ended = program(house, """
        import cloudpickle
        if __name__ == "__main__":
            k = 10
            def outer(n):
                def inner(x): return x * n + k
                return inner
            with Executor() as ex:
                print(ex.submit(lambda x: x + k, 1).result(), ex.submit(outer(3), 4).result(), list(ex.map(lambda a: a * a, range(4))))
    """)  # fmt: skip
    assert ended.out == "11 22 [0, 1, 4, 9]\n", f"\n{ended}"


def test_a_fresh_process_for_each_call_and_reuse_when_asked(house: House) -> None:
    ended = program(house, """
        state = []
        def count():
            state.append(1)
            return len(state)
        if __name__ == "__main__":
            with Executor(1) as ex:
                print([ex.submit(count).result() for _ in range(4)])
            with Executor(1, reuse=4) as ex:
                print([f.result() for f in [ex.submit(count) for _ in range(8)]])
    """)  # fmt: skip
    fresh, reused = ended.ok().out.splitlines()
    assert fresh == "[1, 1, 1, 1]" and max(eval(reused)) == 4, f"\n{ended}"


def test_a_timeout_and_a_kill_have_their_certificates(house: House) -> None:
    ended = program(house, """
        import time, os
        if __name__ == "__main__":
            with Executor(timeout=0.5) as ex:
                e = ex.submit(time.sleep, 60).exception()
                print(type(e).__name__, e.certificate.cause)
    """)  # fmt: skip
    assert ended.out == "AgentDied timeout\n", f"\n{ended}"


def test_a_killed_program_takes_its_calls_along(house: House) -> None:
    path = house.write(
        "main.py",
        PREAMBLE
        + "import time\nif __name__ == '__main__':\n    with Executor() as ex:\n        ex.submit(time.sleep, 1000)\n        print('submitted', flush=True)\n",
    )
    child = house.start_any([sys.executable, str(path)], env={"CLOVE_BIN": house.clove_bin, "PYTHONPATH": sdk()})
    assert child.stdout and child.stdout.readline() == "submitted\n"
    from deadline import until

    until(lambda: any(a["state"] == "running" for a in house.json("ps")), "the call running")
    child.kill()
    until(lambda: not house.json("ps"), "the call's end")


@pytest.mark.parametrize("version", ["3.9", "3.12", "3.13"])
def test_other_pythons(house: House, version: str) -> None:
    found = next(
        (
            p
            for p in [
                *Path("/root/.pyenv/versions").glob(f"{version}.*/bin/python3"),
                Path(f"/usr/bin/python{version}"),
            ]
            if p.exists()
        ),
        None,
    )
    if found is None:
        pytest.skip(f"python {version} isn't there")
    ended = program(
        house,
        PRIMES.format(imports="from cloveos import Executor as ProcessPoolExecutor", pool="ProcessPoolExecutor"),
        python=str(found),
    )
    assert ended.code == 0 and ended.out.count("True") == 5, f"\n{ended}"
