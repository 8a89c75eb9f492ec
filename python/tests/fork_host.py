"""The template host with a stand-in for `clove_template_serve`: os.fork, no walls.

Control messages from the fake kernel are datagrams of any content with one descriptor, the agent's socket. Answers are
`{"event": "forked", "pid"}` and `{"event": "exited", "pid", "status"}`.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from typing import Callable

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from cloveos import _template


def serve_function(_library: str) -> Callable[[], int]:
    control = socket.socket(fileno=os.dup(3))
    os.set_inheritable(control.fileno(), False)

    def serve() -> int:
        while True:
            ready, _, _ = select.select([control], [], [], 0.005)
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid == 0:
                    break
                control.send(json.dumps({"event": "exited", "pid": pid, "status": status}).encode())
            if not ready:
                continue
            data, fds, _, _ = socket.recv_fds(control, 4096, 4)
            if not data:
                return _template.END_OF_CONTROL
            pid = os.fork()
            if pid == 0:
                control.close()
                os.dup2(fds[0], 3)
                os.close(fds[0])
                return _template.IN_EMBRYO
            os.close(fds[0])
            control.send(json.dumps({"event": "forked", "pid": pid}).encode())
            return _template.IN_TEMPLATE

    return serve


if __name__ == "__main__":
    _template._serve_function = serve_function
    _template.main()
