"""Finds out which module starts threads or opens files while it is imported: a template can't be forked with either."""

from __future__ import annotations

import importlib.machinery
import os
from typing import Any, Callable, Dict, List, Set, Tuple

#: Standard streams and the control socket.
OWN_FDS = frozenset((0, 1, 2, 3))


def thread_ids() -> Set[int]:
    """Ids of this process's threads; empty when /proc isn't there."""
    try:
        return {int(name) for name in os.listdir("/proc/self/task")}
    except OSError:
        return set()


def open_fds() -> Dict[int, str]:
    """Open descriptors beyond our own, with what they are."""
    found: Dict[int, str] = {}
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for name in names:
        fd = int(name)
        if fd in OWN_FDS:
            continue
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the one that listed the folder
    return found


def thread_name(tid: int) -> str:
    """The thread's name, as the host's `ps -L` shows it."""
    try:
        with open(f"/proc/self/task/{tid}/comm", encoding="utf-8", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return "?"


class ImportWatch:
    """While it is entered, remembers for each new thread and descriptor the innermost module that was being loaded."""

    def __init__(self) -> None:
        self._threads: Dict[int, str] = {}
        self._fds: Dict[Tuple[int, str], str] = {}
        self._known_threads = thread_ids()
        self._known_fds = set(open_fds().items())
        self._patched: List[Tuple[Any, str, Any]] = []

    def __enter__(self) -> ImportWatch:
        source, extension = importlib.machinery.SourceFileLoader, importlib.machinery.ExtensionFileLoader
        # An extension's libraries are mapped, and their constructors run, when its module is created.
        for loader, method in ((source, "exec_module"), (extension, "create_module"), (extension, "exec_module")):
            original = getattr(loader, method)
            self._patched.append((loader, method, vars(loader).get(method)))
            setattr(loader, method, self._watching(original))
        return self

    def __exit__(self, *_: object) -> None:
        for loader, method, own in self._patched:
            if own is None:
                delattr(loader, method)
            else:
                setattr(loader, method, own)

    def _watching(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load(loader: Any, what: Any) -> Any:
            # A spec has `name`, a module `__name__`.
            name = getattr(what, "__name__", None) or getattr(what, "name", "?")
            try:
                return original(loader, what)
            finally:
                self.note(str(name))

        return load

    def note(self, who: str) -> None:
        """Puts what is new down to `who`. Inner modules are done first, so they get what is theirs."""
        for tid in thread_ids() - self._known_threads:
            self._known_threads.add(tid)
            self._threads[tid] = who
        for item in open_fds().items():
            if item not in self._known_fds:
                self._known_fds.add(item)
                self._fds[item] = who

    def threads(self) -> List[Tuple[str, str]]:
        """(module, thread's name) of each thread that is still there beside the main one."""
        tids = thread_ids()
        # Not getpid(): /proc may show another PID namespace than ours.
        main = int(os.readlink("/proc/self")) if tids else 0
        return [(self._threads.get(tid, "?"), thread_name(tid)) for tid in sorted(tids) if tid != main]

    def fds(self) -> List[Tuple[str, int, str]]:
        """(module, descriptor, what it is) of each descriptor that is still open."""
        return [(self._fds.get(item, "?"), item[0], item[1]) for item in sorted(open_fds().items())]
