"""One open executor run: pushes calls in batches, collects what ended, resolves the futures."""

from __future__ import annotations

import atexit
import collections
import os
import threading
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional, Set, Tuple, Union

from . import _blobs
from ._client import Client
from ._outcome import Outcome, outcome_of
from ._wire import Frame, reply_of
from .errors import CloveError, ConnectionLost, SysError

#: A larger payload goes as a blob.
TAIL_BYTES = 8 << 20
#: Most calls, and about as many bytes, in one push.
BATCH_CALLS = 512
BATCH_BYTES = 8 << 20
#: A call up to this size goes out on the thread that submits it, when nothing else is on its way.
DIRECT_BYTES = 32 << 10
#: The kernel's queue is full: try again after this long, or when a task has ended.
FULL_WAIT_S = 0.25
COLLECT_WAIT_MS = 30_000

_FULL = "E0502"


# Those that have something to do: the interpreter waits for them, as it does for a process pool.
_live: Set[Session] = set()


class Item:
    """One submitted call."""

    __slots__ = ("blob", "future", "index", "marked", "payload")

    def __init__(self, future: Future[Any], payload: bytes) -> None:
        self.future = future
        self.payload = payload
        self.blob: Optional[str] = None
        #: The task's index in its run, when the kernel has said it.
        self.index: Optional[int] = None
        #: Counts among those that run.
        self.marked = False


class Session:
    """Two connections: one that the run is attached to, and one for large values.

    Its threads are daemons: the run ends with the connection, so nothing is left behind by a program that just ends.
    """

    def __init__(self, connect: Callable[[], Client], spec: Mapping[str, Any], workers: int, trusted: bool) -> None:
        self._pid = os.getpid()
        self._connect = connect
        self._workers = workers
        self._trusted = trusted
        self._client = connect()
        try:
            self.run: str = self._client.call("run.submit", {"spec": spec})[0]["run"]
        except BaseException:
            self._client.close()
            raise
        self._side: Optional[Client] = None
        self._side_lock = threading.Lock()
        self._lock = threading.Lock()
        # Waits for: something to push (the pusher), nothing left to do (shutdown).
        self._changed = threading.Condition(self._lock)
        self._queue: Deque[Item] = collections.deque()
        self._in_flight = False
        self._full = False
        self._pusher: Optional[threading.Thread] = None
        self._by_index: Dict[int, Item] = {}
        # Ended before their push was answered.
        self._early: Dict[int, Tuple[Mapping[str, Any], bytes]] = {}
        self._waiting: Deque[Item] = collections.deque()
        self._running = 0
        self._items: Dict[int, Item] = {}
        self._closing = False
        self._closed = False
        self._finished = threading.Event()
        self.broken: Optional[CloveError] = None
        _live.add(self)
        self._collect(0)

    # ------------------------------------------------------------------------------------------------ submitting

    def submit(self, item: Item) -> None:
        """Takes a call; its future is resolved some time later. Raises when the session is broken."""
        if os.getpid() != self._pid:
            raise RuntimeError("this executor belongs to the parent process; make a new one after a fork")
        if len(item.payload) > TAIL_BYTES:
            item.blob = _blobs.put(self._large(), item.payload)
            item.payload = b""
        batch: List[Item] = []
        with self._lock:
            if self.broken is not None:
                raise same(self.broken)
            self._items[id(item)] = item
            self._queue.append(item)
            direct = (
                not self._in_flight
                and not self._full
                and len(self._queue) == 1
                and len(item.payload) <= DIRECT_BYTES
                # A callback's submit mustn't block the thread that reads.
                and not self._client.on_reader_thread()
            )
            if direct:
                batch = self._take()
            else:
                self._need_pusher()
        # Outside the lock: a future that is cancelled already calls back at once.
        item.future.add_done_callback(lambda _: self._on_done(item))
        if batch:
            self._push(batch)

    def _large(self) -> Callable[..., Tuple[Dict[str, Any], bytes]]:
        with self._side_lock:
            if self._side is None:
                self._side = self._connect()
            return self._side.call

    def _need_pusher(self) -> None:
        if self._pusher is None:
            self._pusher = threading.Thread(target=self._push_for_ever, name="cloveos-pusher", daemon=True)
            self._pusher.start()
        self._changed.notify_all()

    def _push_for_ever(self) -> None:
        while True:
            with self._changed:
                while not (self._queue and not self._in_flight and not self._full):
                    if self._finished.is_set() or self.broken is not None:
                        return
                    if self._full:
                        self._changed.wait(FULL_WAIT_S)
                        self._full = False
                    else:
                        self._changed.wait()
                batch = self._take()
            if batch:
                self._push(batch)

    def _take(self) -> List[Item]:
        """The next batch, under the lock."""
        batch: List[Item] = []
        size = 0
        while self._queue and len(batch) < BATCH_CALLS:
            item = self._queue[0]
            if batch and size + len(item.payload) > BATCH_BYTES:
                break
            self._queue.popleft()
            if item.future.cancelled():
                continue
            size += len(item.payload)
            batch.append(item)
        self._in_flight = bool(batch)
        return batch

    def _push(self, batch: List[Item]) -> None:
        tasks = [
            {"payload_blob": item.blob} if item.blob is not None else {"payload_bytes": len(item.payload)}
            for item in batch
        ]
        tail = b"".join([item.payload for item in batch])
        try:
            self._client.call_async(
                "run.push", {"run": self.run, "tasks": tasks}, lambda reply: self._on_push(batch, reply), tail
            )
        except CloveError as e:
            self._end(e)

    def _on_push(self, batch: List[Item], reply: Union[Frame, CloveError]) -> None:
        first: int = 0
        error: Optional[CloveError] = None
        try:
            first = int(_value(reply)["first"])
        except CloveError as e:
            error = e
        full = isinstance(error, SysError) and error.code == _FULL
        ended: List[Tuple[Item, Mapping[str, Any], bytes]] = []
        cancelled: List[Item] = []
        with self._lock:
            self._in_flight = False
            if full:
                # Nothing was taken.
                self._queue.extendleft(reversed(batch))
                self._full = True
                self._need_pusher()
            elif error is None:
                for i, item in enumerate(batch):
                    item.index = first + i
                    item.payload = b""
                    early = self._early.pop(item.index, None)
                    if early is not None:
                        ended.append((item, *early))
                    else:
                        self._by_index[item.index] = item
                        self._waiting.append(item)
                    if item.future.cancelled():
                        cancelled.append(item)
            if self._queue and not full:
                self._need_pusher()
        if error is not None and not full:
            for item in batch:
                _fail(item.future, same(error))
        for item, info, opaque in ended:
            self._resolve(item, info, opaque)
        for item in cancelled:
            self._cancel(item)
        self._mark_running()

    # ------------------------------------------------------------------------------------------------ collecting

    def _collect(self, since: int) -> None:
        try:
            self._client.call_async(
                "run.collect",
                {"run": self.run, "since": since, "wait_ms": COLLECT_WAIT_MS},
                self._on_collect,
            )
        except CloveError as e:
            self._end(e)

    def _on_collect(self, reply: Union[Frame, CloveError]) -> None:
        try:
            value = _value(reply)
        except CloveError as e:
            self._end(e)
            return
        tail = memoryview(reply.tail if isinstance(reply, Frame) else b"")
        at = 0
        for info in value["tasks"]:
            length = int(info.get("payload_bytes") or 0)
            blob = info.get("payload_blob")
            if blob is not None:
                opaque = b""
            else:
                opaque = bytes(tail[at : at + length])
                at += length
            with self._lock:
                item = self._by_index.pop(int(info["index"]), None)
                if item is None:
                    self._early[int(info["index"])] = (info, opaque)
            if item is not None:
                self._resolve(item, info, opaque)
        self._mark_running()
        if not value["finished"]:
            self._collect(int(value["version"]))
            return
        if self._items and not self._closed:
            # It ended under us, or its template can't be built: ask why.
            try:
                self._client.call_async("run.show", {"run": self.run}, self._on_show)
                return
            except CloveError:
                pass
        self._end(ConnectionLost("the run has ended"))

    def _on_show(self, reply: Union[Frame, CloveError]) -> None:
        try:
            self._end(_why_ended(_value(reply)["info"]))
        except CloveError as e:
            self._end(e)

    def _explain(self, item: Item) -> None:
        """A task that is cancelled, and not by us: somebody else did it, or its run has failed."""

        def on_show(reply: Union[Frame, CloveError]) -> None:
            try:
                info = _value(reply)["info"]
            except CloveError as e:
                _fail(item.future, same(e))
                return
            if info["state"] == "failed":
                _fail(item.future, _why_ended(info))
            else:
                _settle(item.future, Outcome(cancelled=True))

        try:
            self._client.call_async("run.show", {"run": self.run}, on_show)
        except CloveError as e:
            self._end(e)

    def _resolve(self, item: Item, info: Mapping[str, Any], opaque: bytes) -> None:
        if item.future.cancelled():
            return
        blob = info.get("payload_blob")
        if blob is not None:
            try:
                opaque = _blobs.get(self._large(), blob)
            except (CloveError, OSError) as e:
                _fail(item.future, e)
                return
        outcome = outcome_of(info, opaque, self._trusted)
        if outcome.cancelled:
            self._explain(item)
        else:
            _settle(item.future, outcome)

    def _mark_running(self) -> None:
        """Marks the oldest calls as running, as many as there are workers: the kernel starts them in this order."""
        with self._lock:
            candidates: List[Item] = []
            while self._waiting and self._running + len(candidates) < self._workers:
                item = self._waiting.popleft()
                if not item.future.done():
                    candidates.append(item)
            for item in candidates:
                item.marked = True
                self._running += 1
        for item in candidates:
            _start(item.future)

    # ------------------------------------------------------------------------------------------------ ending

    def _on_done(self, item: Item) -> None:
        """Is called once for each future: resolved or cancelled."""
        with self._changed:
            self._items.pop(id(item), None)
            if item.marked:
                item.marked = False
                self._running -= 1
            self._full = False
            self._changed.notify_all()
        if item.future.cancelled():
            _start(item.future)
            if item.index is not None:
                self._cancel(item)
        self._close_if_done()

    def _cancel(self, item: Item) -> None:
        with self._lock:
            if self._closed or self.broken is not None:
                return
        self._tell("run.cancel", {"run": self.run, "task": item.index})

    def _tell(self, name: str, args: Mapping[str, Any]) -> None:
        try:
            self._client.call_async(name, args, _ignore)
        except CloveError:
            pass  # the kernel is gone, and the run with it

    def _close_if_done(self) -> None:
        with self._lock:
            if self._items or not self._closing or self._closed:
                return
            self._closed = True
        self._tell("run.close", {"run": self.run})

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        """Takes no more calls; ends when those it has are done."""
        if os.getpid() != self._pid:
            return  # a fork's child has neither the threads nor the connection
        with self._lock:
            self._closing = True
            items = list(self._items.values())
        if cancel_futures:
            for item in items:
                item.future.cancel()
        self._close_if_done()
        if not wait:
            return
        with self._changed:
            while self._items and self.broken is None:
                self._changed.wait()
        # Everything is resolved; what is left is a farewell.
        if not self._client.on_reader_thread():
            self._finished.wait(5)
        self._leave()

    def kill(self) -> None:
        """Ends the run and everything that runs in it."""
        with self._lock:
            self._closing = True
        self._tell("run.cancel", {"run": self.run})

    def _end(self, error: CloveError) -> None:
        """Nothing more will come: what is unresolved gets the error."""
        with self._changed:
            if self.broken is None:
                self.broken = error
            items = list(self._items.values())
            self._queue.clear()
            self._changed.notify_all()
        for item in items:
            _fail(item.future, same(error))
        self._finished.set()
        with self._changed:
            self._changed.notify_all()
        self._leave()

    def _leave(self) -> None:
        _live.discard(self)
        self._finished.set()
        with self._changed:
            if self.broken is None:
                self.broken = ConnectionLost("this executor was shut down")
            self._changed.notify_all()
        self._client.close()
        with self._side_lock:
            if self._side is not None:
                self._side.close()


os.register_at_fork(after_in_child=_live.clear)


@atexit.register
def _wait_for_all() -> None:
    for session in list(_live):
        session.shutdown(wait=True, cancel_futures=False)


def _value(reply: Union[Frame, CloveError]) -> Any:
    if isinstance(reply, CloveError):
        raise reply
    return reply_of(reply)


def _ignore(_: Union[Frame, CloveError]) -> None:
    """A reply that changes nothing here: the collector sees what came of the call."""


def _why_ended(info: Mapping[str, Any]) -> SysError:
    if info["state"] == "failed":
        return SysError("E0603", str(info.get("message") or "its template can't be built"))
    return SysError("E0801", f"the run is {info['state']}")


def same(error: CloveError) -> CloveError:
    """A fresh copy, so that each future's exception has a traceback of its own."""
    return type(error)(*error.args)


def _settle(future: Future[Any], outcome: Outcome) -> None:
    if outcome.cancelled:
        if not future.cancel():
            _fail(future, CancelledError())
        return
    if outcome.error is not None:
        _fail(future, outcome.error)
        return
    if _start(future):
        try:
            future.set_result(outcome.value)
        except InvalidStateError:
            pass


def _fail(future: Future[Any], error: BaseException) -> None:
    if _start(future):
        try:
            future.set_exception(error)
        except InvalidStateError:
            pass


# Two threads that start one future would make concurrent.futures log a critical error.
_transition = threading.Lock()


def _start(future: Future[Any]) -> bool:
    """Makes a pending future a running one, and tells a cancelled one's waiters; says whether it wants its result."""
    with _transition:
        if future.running():
            return True
        if future._state in ("PENDING", "CANCELLED"):
            return future.set_running_or_notify_cancel()
        return False
