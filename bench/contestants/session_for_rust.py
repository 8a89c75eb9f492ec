"""What the Rust client submits: the executor session and the pickled call that `Executor` would send."""

from __future__ import annotations

import json
import sys

import workload
from activation_python import ONE_THREAD
from cloveos import Executor


def main() -> None:
    """Writes the call to the file named first; prints the session's spec."""
    executor = Executor(
        1, memory=int(sys.argv[2]), preload=["workload"], setup=workload.warm, env=ONE_THREAD, name="activation"
    )
    # Not public: but these are the very bytes that go over the public wire.
    with open(sys.argv[1], "wb") as file:
        file.write(executor._packed(workload.first_instruction, (), {}))
    print(json.dumps(executor._spec(workload.first_instruction)))


if __name__ == "__main__":
    main()
