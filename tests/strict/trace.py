"""Which system calls the supported runtimes make, seen from outside by Linux' own tracepoints.

    scripts/strict-trace record [WORKLOAD...]   adds what is seen under the default profile to the checked-in list
    scripts/strict-trace record --fresh         begins the list anew
    scripts/strict-trace record python --python PATH     with another version of Python, too
    scripts/strict-trace check [WORKLOAD...]    runs them under `strict`: each must do its work, and nothing may be
                                                refused that the profile doesn't name as refused

The workloads lie in `workloads/`. A call is counted once it has passed the seccomp filter of its process, so the list has
what is called where agents run (after glibc has been refused clone3, for example), and of our own code only what runs
behind a filter. No tracer is attached: a warm agent that has one is refused, and rightly so.

Needs root on the host itself (tracefs, and process ids as the kernel counts them); otherwise it says SKIPPED.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import dataclasses
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NoReturn, Optional, Set, Tuple

ROOT = Path(__file__).resolve().parents[2]
WORKLOADS = Path(__file__).parent / "workloads"
SECCOMP = ROOT / "crates/clove-sandbox/src/seccomp"
LIST = SECCOMP / "strict/traced.rs"

#: Arguments whose values decide what a call is: name of the call, and which of its arguments.
ARGUMENTS: Dict[str, Tuple[int, ...]] = {
    "arch_prctl": (0,),
    "clone": (0,),
    "fcntl": (1,),
    "getsockopt": (1, 2),
    "ioctl": (1,),
    "memfd_create": (1,),
    "personality": (0,),
    "prctl": (0,),
    "setsockopt": (1, 2),
    "seccomp": (0, 1),
    "socket": (0, 1, 2),
    "socketpair": (0, 1, 2),
}
#: Calls that Linux has got since the headers of Debian 12.
NEWER = {
    451: "cachestat", 452: "fchmodat2", 453: "map_shadow_stack", 454: "futex_wake", 455: "futex_wait",
    456: "futex_requeue", 457: "statmount", 458: "listmount", 459: "lsm_get_self_attr", 460: "lsm_set_self_attr",
    461: "lsm_list_modules", 462: "mseal", 463: "setxattrat", 464: "getxattrat", 465: "listxattrat",
    466: "removexattrat", 467: "open_tree_attr", 468: "file_getattr", 469: "file_setattr",
}  # fmt: skip
HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
#: Names that other architectures have too.
GENERIC_HEADER = Path("/usr/include/asm-generic/unistd.h")
SECCOMP_SET_MODE_FILTER = 1
#: For one workload, on a machine that does other things too.
PATIENCE_S = 240

#: Which argument has which value (the low half), for one way to make a call.
Values = Tuple[Tuple[int, int], ...]


def skip(why: str) -> NoReturn:
    print(f"SKIPPED: {why}")
    sys.exit(77)


def die(why: str) -> NoReturn:
    print(f"strict-trace: {why}", file=sys.stderr)
    sys.exit(1)


# ------------------------------------------------------------------------------------------------- workloads


@dataclasses.dataclass(frozen=True)
class Workload:
    """One program or sweep: the word in the list, and how it is run (given the profile's flags)."""

    name: str
    #: What must be there for it.
    needs: Tuple[str, ...]
    #: `clove` arguments, from the profile.
    command: Callable[[str], List[str]]
    #: Run by another program than `clove`.
    program: Optional[Callable[[str], List[str]]] = None


def inside(*argv: str, flags: Tuple[str, ...] = ()) -> Callable[[str], List[str]]:
    def command(profile: str) -> List[str]:
        seen = ["-v", f"{WORKLOADS}:/workloads", "--pids-limit", "400", "--timeout", "300s"]
        return ["run", "--rm", "--profile", profile, *seen, *flags, "--", *argv]

    return command


def a_sweep(profile: str) -> List[str]:
    flags = ["--profile", profile] if profile != "default" else []
    return ["sweep", "run", str(WORKLOADS / "sweep.py"), "--grid", "depth=2,3,4", "--python", sys.executable, *flags]


def with_rustc(profile: str) -> List[str]:
    """The toolchain itself: what is on the PATH is often only a proxy for it."""
    asked = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True)
    root = asked.stdout.strip()
    path = f"PATH={root}/bin:/usr/bin:/bin"
    return inside("bash", "/workloads/rust.sh", flags=("-v", f"{root}:{root}", "-e", path, "--memory", "2g"))(profile)


#: Also where there is one CPU: threads are what numpy is watched for.
TWO_THREADS = ("-e", "OMP_NUM_THREADS=2", "-e", "OPENBLAS_NUM_THREADS=2")

WORKED = [
    Workload("python", (), inside(sys.executable, "/workloads/python_core.py")),
    Workload("python", ("/usr/bin/python3",), inside("/usr/bin/python3", "/workloads/python_core.py")),
    Workload(
        "science", (), inside(sys.executable, "/workloads/python_science.py", flags=("--memory", "2g", *TWO_THREADS))
    ),
    Workload("node", ("node",), inside("node", "/workloads/node.js")),
    Workload("shell", ("bash",), inside("bash", "/workloads/shell.sh")),
    Workload("terminal", ("bash",), inside("bash", "/workloads/terminal.sh", flags=("-t",))),
    Workload("compiler", ("gcc",), inside("bash", "/workloads/compiler.sh", flags=("--disk", "1g", "--memory", "2g"))),
    Workload("rust", ("rustc",), with_rustc),
    Workload("git", ("git",), inside("bash", "/workloads/git.sh")),
    Workload("sweep", (), a_sweep),
    Workload(
        "executor",
        (),
        lambda _: [],
        lambda profile: [sys.executable, str(WORKLOADS / "executor.py"), *([profile] if profile != "default" else [])],
    ),
]


# ------------------------------------------------------------------------------------------------- tracing


@dataclasses.dataclass
class Seen:
    """What was called behind a filter."""

    #: (call, who)
    calls: Set[Tuple[int, str]] = dataclasses.field(default_factory=set)
    #: (call, ((argument, value), ...), who)
    arguments: Set[Tuple[int, Values, str]] = dataclasses.field(default_factory=set)
    #: (call, what it got, who)
    refused: collections.Counter[Tuple[int, int, str]] = dataclasses.field(default_factory=collections.Counter)


class Books:
    """Reads the tracepoints' lines: who is behind a filter, and what they call."""

    LINE = re.compile(r"^.*-(\d+)\s+\[\d+\]\s+\S+\s+[\d.]+: (\w+): (.*)$")

    def __init__(self, names: Dict[int, str]) -> None:
        self.names = names
        self.numbers = {name: number for number, name in names.items()}
        self.seen = Seen()
        self.who = ""
        self.reached: Set[str] = set()
        self.changed = threading.Condition()
        # By thread: filters, whether a seccomp call is on its way, and whether a call has begun.
        self.filters: collections.defaultdict[int, int] = collections.defaultdict(int)
        self.installing: Set[int] = set()
        self.calling: Set[int] = set()

    def line(self, text: str) -> None:
        match = self.LINE.match(text)
        if match is None:
            return
        pid, event, rest = int(match[1]), match[2], match[3]
        if event == "sys_enter":
            self.enter(pid, rest)
        elif event == "sys_exit":
            self.leave(pid, rest)
        elif event == "sched_process_fork":
            child = int(rest.rpartition("child_pid=")[2])
            self.filters[child] = self.filters[pid]
            # It comes back from its parent's call.
            self.calling.add(child)
        elif event == "tracing_mark_write":
            word, _, who = rest.strip().partition(" ")
            with self.changed:
                self.who = who if word == "begin" else ""
                self.reached.add(rest.strip())
                self.changed.notify_all()

    def label(self, pid: int) -> str:
        """A template and its agents are told apart: the first must do more."""
        if self.who in ("sweep", "executor"):
            return "template" if self.filters[pid] == 1 else "agent"
        return self.who

    def enter(self, pid: int, rest: str) -> None:
        number, _, in_brackets = rest.removeprefix("NR ").partition(" ")
        nr = int(number)
        args = [int(a, 16) for a in in_brackets.strip("()").split(", ")]
        self.calling.add(pid)
        if self.names.get(nr) == "seccomp" and args[0] == SECCOMP_SET_MODE_FILTER:
            self.installing.add(pid)
        if self.filters[pid] and self.who:
            self.seen.calls.add((nr, self.label(pid)))
            if which := ARGUMENTS.get(self.names.get(nr, "")):
                self.seen.arguments.add((nr, tuple((i, args[i] & 0xFFFF_FFFF) for i in which), self.label(pid)))

    def leave(self, pid: int, rest: str) -> None:
        number, _, result = rest.removeprefix("NR ").partition(" = ")
        nr = int(number)
        began = pid in self.calling
        self.calling.discard(pid)
        if pid in self.installing:
            self.installing.discard(pid)
            self.filters[pid] += result == "0"
        elif not began and nr >= 0 and self.filters[pid] and self.who:
            # seccomp comes before the tracepoint: what ends without having begun was refused by a filter.
            self.seen.refused[nr, int(result), self.label(pid)] += 1


class Tracing:
    """An instance of ftrace that follows one process and all that it forks."""

    def __init__(self, names: Dict[int, str]) -> None:
        self.books = Books(names)
        self.mount = Path(tempfile.mkdtemp(prefix="strict-trace-"))
        # In a mount namespace of this process's own.
        if subprocess.run(
            ["mount", "-t", "tracefs", "t", str(self.mount)], check=False, stderr=subprocess.DEVNULL
        ).returncode:
            skip("tracefs can't be mounted here")
        if not (self.mount / "events/raw_syscalls").is_dir():
            skip("this kernel has no raw_syscalls tracepoints")
        self.at = self.mount / f"instances/clove-strict-{os.getpid()}"
        self.at.mkdir()
        self.ending = threading.Event()
        self.reader: Optional[threading.Thread] = None

    def follow(self, pid: int) -> None:
        self.set("buffer_size_kb", "32768")
        self.set("options/event-fork", "1")
        self.set("set_event_pid", str(pid))
        for event in ("raw_syscalls/sys_enter", "raw_syscalls/sys_exit", "sched/sched_process_fork"):
            self.set(f"events/{event}/enable", "1")
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        pipe = os.open(self.at / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        rest = b""
        while not self.ending.is_set():
            select.select([pipe], [], [], 0.1)
            try:
                *lines, rest = (rest + os.read(pipe, 1 << 16)).split(b"\n")
            except BlockingIOError:
                continue
            for line in lines:
                self.books.line(line.decode(errors="replace"))
        os.close(pipe)

    def set(self, name: str, value: str) -> None:
        (self.at / name).write_text(value)

    def mark(self, text: str) -> None:
        """Writes a mark, and waits until all that came before it has been read."""
        self.set("trace_marker", text)
        with self.books.changed:
            if not self.books.changed.wait_for(lambda: text in self.books.reached, 120):
                die("the trace can't be read as fast as it grows")
            self.books.reached.discard(text)

    def lost(self) -> int:
        """Events that found no room."""
        total = 0
        for stats in self.at.glob("per_cpu/cpu*/stats"):
            total += sum(int(n) for n in re.findall(r"(?:overrun|dropped events): (\d+)", stats.read_text()))
        return total

    def end(self) -> None:
        self.set("events/enable", "0")
        self.ending.set()
        if self.reader is not None:
            self.reader.join()
        self.at.rmdir()
        subprocess.run(["umount", "-l", str(self.mount)], check=False)
        self.mount.rmdir()


def names_of_calls() -> Dict[int, str]:
    if os.uname().machine != "x86_64":
        skip("the list is traced on x86-64")
    if not HEADER.is_file():
        die(f"{HEADER} is needed (Debian package linux-libc-dev)")
    found = re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text())
    return {**NEWER, **{int(number): name for name, number in found}}


# ------------------------------------------------------------------------------------------------- running


class Kernel:
    """A kernel of CloveOS for this trace alone."""

    def __init__(self) -> None:
        named = os.environ.get("CLOVE_BIN")
        places = [Path(named)] if named else [ROOT / "target/release/clove", ROOT / "target/debug/clove"]
        self.binary = next((str(p.resolve()) for p in places if p.is_file()), "")
        if not self.binary:
            die("no clove was built: cargo build -p clove -p clove-sys")
        self.folder = Path(tempfile.mkdtemp(prefix="strict-trace-", dir="/tmp"))
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("CLOVE_", "PYTHON", "XDG_"))}
        path = f"{Path(sys.executable).parent}:{clean['PATH']}"
        self.env = {**clean, "CLOVE_HOME": str(self.folder / "h"), "CLOVE_BIN": self.binary, "PATH": path}
        self.env["PYTHONPATH"] = str(ROOT / "python")

    def __enter__(self) -> Kernel:
        self.run([self.binary, "ping"])
        return self

    def __exit__(self, *_: object) -> None:
        self.run([self.binary, "stop", "--force"])
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, argv: List[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                argv, env=self.env, cwd=self.folder, check=False, capture_output=True, text=True, errors="replace",
                stdin=subprocess.DEVNULL, timeout=PATIENCE_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(argv, 124, "", f"it wasn't done after {PATIENCE_S} s\n")

    def launcher(self) -> int:
        info = json.loads(self.run([self.binary, "kernel", "info", "--json"]).stdout)
        return int(info["launcher_pid"])


def traced(wanted: List[str], profile: str) -> Tuple[Seen, List[str]]:
    """Runs the workloads; gives what was seen, and what went wrong."""
    names = names_of_calls()
    tracing = Tracing(names)
    wrong: List[str] = []
    try:
        with Kernel() as kernel:
            tracing.follow(kernel.launcher())
            for w in WORKED:
                absent = [n for n in w.needs if shutil.which(n) is None]
                if (wanted and w.name not in wanted) or absent:
                    if absent:
                        print(f"passed over: {w.name} ({', '.join(absent)} isn't installed)")
                    continue
                argv = w.program(profile) if w.program else [kernel.binary, *w.command(profile)]
                tracing.mark(f"begin {w.name}")
                done = kernel.run(argv)
                tracing.mark(f"end {w.name}")
                print(f"{'ok' if done.returncode == 0 else 'FAILED'}  {w.name}: {' '.join(argv[-2:])}", flush=True)
                if done.returncode:
                    wrong.append(f"{' '.join(argv)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        if tracing.lost():
            die(f"{tracing.lost()} events found no room: try again on a quieter machine")
    finally:
        tracing.end()
    return tracing.books.seen, wrong


# ------------------------------------------------------------------------------------------------- the list

CALL_LINE = re.compile(r'^    \("(\w+)", SYS_\w+, "([\w ]*)"\),$', re.MULTILINE)
ARGUMENT_LINE = re.compile(r'^    \("(\w+)", &\[(.*)\], "([\w ]*)"\),$', re.MULTILINE)

#: By name of the call, and by name and values: the workloads.
Calls = Dict[str, Set[str]]
Arguments = Dict[Tuple[str, Values], Set[str]]


def read_list() -> Tuple[Calls, Arguments]:
    text = LIST.read_text() if LIST.is_file() else ""
    calls = {name: set(who.split()) for name, who in CALL_LINE.findall(text)}
    arguments = {}
    for name, values, who in ARGUMENT_LINE.findall(text):
        pairs = tuple((int(i), int(v, 16)) for i, v in re.findall(r"\((\d), (0x[0-9a-f]+)\)", values))
        arguments[name, pairs] = set(who.split())
    return calls, arguments


def rust_list(calls: Calls, arguments: Arguments) -> str:
    generic = set(re.findall(r"#define __NR(?:3264)?_(\w+) ", GENERIC_HEADER.read_text()))
    generic |= {n.removeprefix("__NR_") for n in re.findall(r"#define (__NR_\w+) __NR3264", GENERIC_HEADER.read_text())}

    # These two are only for architectures of 32 bits.
    generic -= {"stat", "lstat"}

    def rows(wanted: Callable[[str], bool]) -> Iterator[str]:
        for name, who in sorted(calls.items()):
            if wanted(name):
                yield f'    ("{name}", SYS_{name}, "{" ".join(sorted(who))}"),\n'

    def everywhere(name: str) -> bool:
        return name in generic

    text = [
        "//! The calls that the supported runtimes were seen making. Written by `scripts/strict-trace record`: don't edit.\n\n",
        "use libc::*;\n\n",
        "/// Name, number, and the workloads of `tests/strict` that need it (`template` is our template host, `agent` what\n",
        "/// it forks).\n#[rustfmt::skip]\npub const CALLS: &[(&str, c_long, &str)] = &[\n",
        *rows(everywhere),
        "];\n\n/// Those that only x86-64 has: older names of the ones above.\n",
        '#[cfg(target_arch = "x86_64")]\n#[rustfmt::skip]\npub const CALLS_X86: &[(&str, c_long, &str)] = &[\n',
        *rows(lambda name: not everywhere(name)),
        '];\n#[cfg(not(target_arch = "x86_64"))]\npub const CALLS_X86: &[(&str, c_long, &str)] = &[];\n\n',
        "/// Calls that do many things, and what was asked of them: arguments (from 0) with the low halves of their values.\n",
        "#[cfg(test)]\npub type Asked = (&'static str, &'static [(u32, u32)], &'static str);\n",
        "#[cfg(test)]\n#[rustfmt::skip]\npub const ARGUMENTS: &[Asked] = &[\n",
        *(
            f'    ("{name}", &[{", ".join(f"({i}, {v:#x})" for i, v in values)}], "{" ".join(sorted(who))}"),\n'
            for (name, values), who in sorted(arguments.items())
        ),
        "];\n",
    ]
    return "".join(text)


def record(wanted: List[str], fresh: bool) -> int:
    seen, wrong = traced(wanted, "default")
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        die("a workload failed, so what it would have called is unknown: nothing was written")
    names = names_of_calls()
    calls, arguments = ({}, {}) if fresh else read_list()
    for nr, who in seen.calls:
        calls.setdefault(names.get(nr, f"unknown_{nr}"), set()).add(who)
    for nr, values, who in seen.arguments:
        arguments.setdefault((names[nr], values), set()).add(who)
    LIST.parent.mkdir(exist_ok=True)
    LIST.write_text(rust_list(calls, arguments))
    print(f"{len(calls)} calls, {len(arguments)} values of arguments: {LIST.relative_to(ROOT)}")
    show_refused(seen, names, "refused by the default profile")
    return 0


def show_refused(seen: Seen, names: Dict[int, str], title: str) -> None:
    if seen.refused:
        print(title + ":")
    for (nr, result, who), count in sorted(seen.refused.items()):
        error = os.strerror(-result) if result < 0 else str(result)
        print(f"  {names.get(nr, nr)}: {error} ({who}, {count} times)")


def named_as_refused() -> Set[str]:
    """The calls that the profile says it refuses, wholly or with some arguments: `SYS_name` in its own file."""
    text = (SECCOMP / "strict.rs").read_text() + (SECCOMP / "default.rs").read_text()
    return set(re.findall(r"\bSYS_(\w+)", text))


def check(wanted: List[str]) -> int:
    seen, wrong = traced(wanted, "strict")
    names = names_of_calls()
    show_refused(seen, names, "refused by the strict profile")
    known = named_as_refused()
    unnamed = sorted({f"{names.get(nr, nr)} ({who})" for nr, _, who in seen.refused if names.get(nr) not in known})
    if unnamed:
        wrong.append("refused, and the profile doesn't say so: " + ", ".join(unnamed))
    outside = sorted({names.get(nr, str(nr)) for nr, _ in seen.calls} - allowed_names())
    if outside:
        wrong.append("let through, and on no list: " + ", ".join(outside))
    if not seen.calls:
        wrong.append("nothing was seen at all")
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    print("nothing was called outside the list")
    return 0


def allowed_names() -> Set[str]:
    calls, _ = read_list()
    text = (SECCOMP / "strict.rs").read_text()
    return set(calls) | set(re.findall(r"\bSYS_(\w+)", text))


def own_mounts() -> None:
    """A mount namespace of this process's own, before it has threads: the trace's mount is nobody else's."""
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newns = 0x20000
    if os.geteuid() != 0:
        skip("strict-trace needs root")
    if libc.unshare(clone_newns) or subprocess.run(["mount", "--make-rprivate", "/"], check=False).returncode:
        skip("strict-trace needs a mount namespace of its own")


def main() -> int:
    parser = argparse.ArgumentParser(prog="strict-trace", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["record", "check"])
    parser.add_argument("workload", nargs="*", choices=[[], *sorted({w.name for w in WORKED})])
    parser.add_argument("--python", action="append", default=[], help="another interpreter for the workload `python`")
    parser.add_argument("--fresh", action="store_true", help="forget what the list has")
    args = parser.parse_intermixed_args()
    for other in args.python:
        WORKED.append(Workload("python", (other,), inside(other, "/workloads/python_core.py")))
    own_mounts()
    # What was begun is put away then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return record(args.workload, args.fresh) if args.what == "record" else check(args.workload)


if __name__ == "__main__":
    sys.exit(main())
