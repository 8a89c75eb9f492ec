"""A small kernel in Python for the tests of the client side: it speaks the frames and really runs the tasks, unwalled."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from cloveos._calls import NUMBERS

HEADER = struct.Struct("<IIBBHB3xQ")
NAMES = {number: name for name, number in NUMBERS.items()}
MEMFD_SEALS = 0x1 | 0x2 | 0x4 | 0x8


class Refused(Exception):
    def __init__(self, code: str, message: str, hint: str = "") -> None:
        self.error = {"code": code, "message": message, "hint": hint}


class Peer:
    """One accepted connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fds: List[int] = []
        self.lock = threading.Lock()

    def read(self, n: int) -> bytes:
        out = b""
        while len(out) < n:
            data, fds, _, _ = socket.recv_fds(self.sock, min(n - len(out), 1 << 20), 8)
            self.fds += fds
            if not data:
                raise EOFError
            out += data
        return out

    def frame(self) -> Tuple[int, int, Dict[str, Any], bytes, List[int]]:
        body_len, tail_len, version, flags, number, fds, correlation = HEADER.unpack(self.read(HEADER.size))
        assert (version, flags) == (1, 0)
        body = self.read(body_len)
        tail = self.read(tail_len)
        assert len(self.fds) == fds
        taken, self.fds = self.fds, []
        return number, correlation, json.loads(body or b"{}", parse_constant=_no_constants), tail, taken

    def reply(self, number: int, correlation: int, body: Any, tail: bytes = b"", error: bool = False) -> None:
        data = json.dumps(body, allow_nan=False).encode()
        head = HEADER.pack(len(data), len(tail), 1, 3 if error else 1, number, 0, correlation)
        with self.lock:
            self.sock.sendall(head + data + tail)


def _no_constants(word: str) -> Any:
    raise AssertionError(f"bare {word} on the wire")


class Task:
    def __init__(self, index: int, spec: Dict[str, Any], payload: bytes) -> None:
        self.index = index
        self.spec = spec
        self.payload = payload
        self.state = "pending"
        self.exception: Optional[Dict[str, str]] = None
        self.result: Any = None
        self.opaque = b""
        self.blob: Optional[str] = None
        self.certificates: List[Dict[str, Any]] = []
        self.pid = 0
        self.attempt = 0
        self.version = 0
        self.cancelled = False


class Run:
    def __init__(self, kernel: FakeKernel, name: str, spec: Dict[str, Any]) -> None:
        self.kernel = kernel
        self.name = name
        self.spec = spec
        self.tasks: List[Task] = []
        self.queue: List[Task] = []
        self.changed = threading.Condition()
        self.version = 0
        self.closed = False
        self.dead = False
        self.failed = ""
        self.exits: Dict[int, int] = {}
        self.host: Optional[subprocess.Popen[bytes]] = None
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.fork_lock = threading.Lock()
        self.forked: List[int] = []
        self._start(theirs)
        for _ in range(spec["jobs"] or 2):
            threading.Thread(target=self._work, daemon=True).start()

    def _start(self, theirs: socket.socket) -> None:
        warm = self.spec["program"]["warm"]
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as f:
            json.dump(warm, f)
        self.host = subprocess.Popen(
            [warm["python"], str(Path(__file__).with_name("fork_host.py"))],
            env={"CLOVE_TEMPLATE_SPEC": f.name, "CLOVE_TEMPLATE_LIB": "none", "PATH": os.environ["PATH"]},
            pass_fds=[3],
            preexec_fn=lambda: os.dup2(theirs.fileno(), 3),
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                data = self.control.recv(1 << 20)
            except ConnectionResetError:
                # The host left requests unread; what it said before comes with the next read.
                data = self._again()
            except OSError:
                data = b""
            with self.changed:
                if not data:
                    self.failed = self.failed or "the template host has ended"
                    self.version += 1
                    self.changed.notify_all()
                    return
                event = json.loads(data)
                if event["event"] == "ready":
                    self.kernel.ready.append(event)
                elif event["event"] == "failed":
                    self.failed = event["message"]
                    self.kernel.failures.append(event)
                    self.version += 1
                elif event["event"] == "forked":
                    self.forked.append(event["pid"])
                elif event["event"] == "exited":
                    self.exits[event["pid"]] = event["status"]
                self.changed.notify_all()

    def _again(self) -> bytes:
        try:
            return self.control.recv(1 << 20)
        except OSError:
            return b""

    def push(self, tasks: List[Dict[str, Any]], tail: bytes) -> int:
        with self.changed:
            if self.closed:
                raise Refused("E0801", "the run is closed")
            first, at = len(self.tasks), 0
            for spec in tasks:
                n = spec.get("payload_bytes", 0)
                task = Task(len(self.tasks), spec, tail[at : at + n])
                at += n
                self.tasks.append(task)
                self.queue.append(task)
            assert at == len(tail)
            self.changed.notify_all()
            return first

    def _work(self) -> None:
        retries = self.spec["retry"]["deaths"]
        while True:
            with self.changed:
                while not self.queue and not self.dead:
                    self.changed.wait()
                if self.dead:
                    return
                task = self.queue.pop(0)
                if task.state != "pending":
                    continue
                task.state = "running"
            self._attempt(task)
            if self.failed:
                return
            with self.changed:
                if task.certificates and not task.cancelled and task.state == "quarantined" and task.attempt <= retries:
                    task.state = "pending"
                    self.queue.append(task)
                    continue
                self._end(task)

    def _end(self, task: Task) -> None:
        self.version += 1
        task.version = self.version
        self.changed.notify_all()

    def _attempt(self, task: Task) -> None:
        task.attempt += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with self.fork_lock:
            try:
                socket.send_fds(self.control, [b"fork"], [theirs.fileno()])
            except OSError:
                return
            theirs.close()
            with self.changed:
                while not self.forked:
                    self.changed.wait(1)
                    if self.failed:
                        return
                task.pid = self.forked.pop(0)
        done = self._serve(task, Peer(ours))
        ours.close()
        with self.changed:
            while task.pid not in self.exits:
                self.changed.wait()
            status = self.exits.pop(task.pid)
        if done:
            return
        if os.WIFSIGNALED(status):
            cause = "cancelled" if task.cancelled else "signal"
            task.certificates.append(certificate(task, cause, signal=os.WTERMSIG(status), message="killed by a signal"))
        else:
            code = os.WEXITSTATUS(status)
            task.certificates.append(certificate(task, "exit", exit_code=code, message=f"exited with code {code}"))
        task.state = "cancelled" if task.cancelled else "quarantined"

    def _serve(self, task: Task, peer: Peer) -> bool:
        done = False
        while True:
            try:
                number, correlation, args, tail, fds = peer.frame()
            except (EOFError, ConnectionError):
                return done
            name = NAMES[number]
            if name == "task.next":
                env = {"CLOVE_TASK": str(task.index), "CLOVE_ATTEMPT": str(task.attempt), **self.spec.get("env", {})}
                if self.spec.get("cwd"):
                    env["CLOVE_CWD"] = self.spec["cwd"]
                seed = int.from_bytes(hashlib.sha256(f"{self.spec['seed']} {task.index}".encode()).digest()[:8], "big")
                reply = {
                    "run": self.name, "task": task.index, "attempt": task.attempt, "name": str(task.index),
                    "config": task.spec.get("config"), "seed": seed, "threads": 1, "env": env, "mode": "call",
                    "payload_blob": task.spec.get("payload_blob"), "reuse": False,
                }  # fmt: skip
                peer.reply(number, correlation, reply, task.payload)
            elif name == "task.done":
                done = True
                task.exception = args.get("exception")
                task.blob = args.get("blob")
                task.opaque = tail
                task.state = "failed" if task.exception else "done"
                self.kernel.done_args.append(args)
                peer.reply(number, correlation, {})
            else:
                try:
                    body, out = self.kernel.blob_call(name, args, tail, fds)
                    peer.reply(number, correlation, body, out)
                except Refused as e:
                    peer.reply(number, correlation, e.error, error=True)

    def collect(self, since: int, wait_ms: int) -> Tuple[Dict[str, Any], bytes]:
        deadline = time.monotonic() + wait_ms / 1000
        with self.changed:
            while self.version <= since and not self._all_done() and not self.dead:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self.changed.wait(left)
            new = sorted((t for t in self.tasks if t.version > since), key=lambda t: t.version)
            finished = self._all_done() or bool(self.failed)
            infos, tail = [], b""
            for t in new:
                infos.append(
                    {
                        "id": f"{self.name}/{t.index}", "index": t.index, "name": "", "state": t.state,
                        "attempts": t.attempt, "exception": t.exception, "certificates": t.certificates,
                        "payload_bytes": len(t.opaque), "payload_blob": t.blob,
                    }
                )  # fmt: skip
                tail += t.opaque
            return {"version": self.version, "tasks": infos, "finished": finished}, tail

    def _all_done(self) -> bool:
        return self.closed and all(t.version for t in self.tasks)

    def cancel(self, index: Optional[int]) -> int:
        n = 0
        with self.changed:
            for task in self.tasks if index is None else [self.tasks[index]]:
                if task.version:
                    continue
                n += 1
                task.cancelled = True
                if task.state == "pending":
                    task.state = "cancelled"
                    self._end(task)
                elif task.pid:
                    os.kill(task.pid, signal.SIGKILL)
            if index is None:
                self.closed = True
            self.changed.notify_all()
        return n

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def stop(self) -> None:
        with self.changed:
            self.dead = True
            self.changed.notify_all()
        for task in self.tasks:
            if task.state == "running" and task.pid:
                try:
                    os.kill(task.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        assert self.host is not None
        self.host.kill()
        self.host.wait()
        self.control.close()


def certificate(task: Task, cause: str, **more: Any) -> Dict[str, Any]:
    return {
        "agent": "a1.1", "name": "x", "task": task.index, "attempt": task.attempt, "cause": cause, "message": "",
        "suggestion": "", "usage": {"peak_memory_bytes": 5, "from_the_future": 1}, "limits": {"memory_bytes": 1},
        "started_ms": 1000, "ended_ms": 2500, "tail": "last words\n", "new_field": 1, **more,
    }  # fmt: skip


class FakeKernel:
    """Listens at `path` until `stop`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.runs: Dict[str, Run] = {}
        self.blobs: Dict[str, bytes] = {}
        self.ready: List[Dict[str, Any]] = []
        self.failures: List[Dict[str, Any]] = []
        self.calls: List[Tuple[str, Dict[str, Any]]] = []
        self.done_args: List[Dict[str, Any]] = []
        self.blob_fds = 0
        #: Refuse so many pushes as full.
        self.full = 0
        self.peers: List[Peer] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(20)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            peer = Peer(sock)
            self.peers.append(peer)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: Peer) -> None:
        mine: List[Run] = []
        try:
            while True:
                number, correlation, args, tail, fds = peer.frame()
                threading.Thread(
                    target=self._answer, args=(peer, mine, number, correlation, args, tail, fds), daemon=True
                ).start() if NAMES.get(number) in ("run.collect", "proc.wait") else self._answer(
                    peer, mine, number, correlation, args, tail, fds
                )
        except (EOFError, OSError):
            pass
        for run in mine:
            run.stop()

    def _answer(
        self,
        peer: Peer,
        mine: List[Run],
        number: int,
        correlation: int,
        args: Dict[str, Any],
        tail: bytes,
        fds: List[int],
    ) -> None:
        name = NAMES.get(number, "?")
        self.calls.append((name, args))
        try:
            try:
                body, out = self._call(name, args, tail, fds, mine)
            except Refused as e:
                peer.reply(number, correlation, e.error, error=True)
                return
            peer.reply(number, correlation, body, out)
        except OSError:
            pass

    def _call(
        self, name: str, args: Dict[str, Any], tail: bytes, fds: List[int], mine: List[Run]
    ) -> Tuple[Dict[str, Any], bytes]:
        if name == "kernel.hello":
            return {"version": "0.1.0", "build": "fake", "abi": 1, "pid": os.getpid(), "idle": True}, b""
        if name == "kernel.ping":
            return {"echo": args}, tail
        if name == "proc.wait":
            time.sleep(args["timeout_ms"] / 1000)
            return {"certificate": None, "code": None}, b""
        if name == "run.submit":
            run = Run(self, f"r{len(self.runs) + 1}", args["spec"])
            self.runs[run.name] = run
            mine.append(run)
            return {"run": run.name}, b""
        if name.startswith("blob."):
            return self.blob_call(name, args, tail, fds)
        if args.get("run") not in self.runs:
            raise Refused("E0202", f"there is no run {args.get('run')}", "clove sweep ls lists runs")
        run = self.runs[args["run"]]
        if name == "run.push":
            if self.full:
                self.full -= 1
                raise Refused("E0502", "full")
            return {"first": run.push(args["tasks"], tail)}, b""
        if name == "run.collect":
            return run.collect(args["since"], args["wait_ms"])
        if name == "run.close":
            run.close()
            return {}, b""
        if name == "run.cancel":
            return {"cancelled": run.cancel(args.get("task"))}, b""
        if name == "run.show":
            return {"info": {"state": "failed" if run.failed else "cancelled", "message": run.failed}}, b""
        raise Refused("E0102", f"no such call: {name}")

    def blob_call(self, name: str, args: Dict[str, Any], tail: bytes, fds: List[int]) -> Tuple[Dict[str, Any], bytes]:
        if name == "blob.put":
            if fds:
                import fcntl

                assert not tail
                assert fcntl.fcntl(fds[0], 1034) == MEMFD_SEALS
                self.blob_fds += 1
                with open(fds[0], "rb") as f:
                    f.seek(0)
                    tail = f.read()
            digest = hashlib.sha256(tail).hexdigest()
            self.blobs[digest] = tail
            return {"digest": digest, "bytes": len(tail)}, b""
        if args["digest"] not in self.blobs:
            raise Refused("E0205", f"there is no blob {args['digest']}")
        data = self.blobs[args["digest"]]
        if name == "blob.stat":
            return {"bytes": len(data)}, b""
        at = args.get("offset", 0)
        return {"bytes": len(data)}, data[at : at + args.get("max", 1 << 26)]

    def stop(self) -> None:
        try:
            self.listener.shutdown(socket.SHUT_RDWR)  # close alone leaves a thread that accepts
        except OSError:
            pass
        self.listener.close()
        for peer in self.peers:
            try:
                peer.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for run in self.runs.values():
            if not run.dead:
                run.stop()


if __name__ == "__main__":
    kernel = FakeKernel(sys.argv[1])
    signal.pause()
