"""The library's Executor, small and large values, fresh and reused processes, exceptions and deaths. Prints `ok`."""

import ctypes
import os
import sys

from cloveos import AgentDied, Executor


def size(data):
    return len(data)


def large(n):
    return b"x" * n


def wrong():
    raise ValueError("as meant")


def crash():
    ctypes.string_at(0)


def main():
    options = {"profile": sys.argv[1]} if len(sys.argv) > 1 else {}
    for reuse in (1, 3):
        with Executor(2, memory="256m", reuse=reuse, **options) as executor:
            assert list(executor.map(size, [b"a", b"bc"] * 4)) == [1, 2] * 4
            assert executor.submit(size, b"x" * (9 << 20)).result() == 9 << 20
            assert len(executor.submit(large, 9 << 20).result()) == 9 << 20
            assert isinstance(executor.submit(wrong).exception(), ValueError)
            assert isinstance(executor.submit(crash).exception(), AgentDied)
    assert os.getpid()
    print("ok")


if __name__ == "__main__":
    main()
