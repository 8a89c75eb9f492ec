"""Runs inside User-Mode Linux, where cgroup v2 has every controller: limits, kills, certificates, sweeps, doctor.

Prints one line for each check, `ok NAME` or `FAILED NAME: why`; needs nothing but Python's standard library.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

CLOVE = sys.argv[1]
os.environ["CLOVE_HOME"] = "/run/home/clove"
PYTHON = os.path.realpath(sys.executable)
checks: list[tuple[str, Callable[[], None]]] = []


def check(f: Callable[[], None]) -> Callable[[], None]:
    checks.append((f.__name__, f))
    return f


def clove(*args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CLOVE, *args], check=False, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )


def run(*args: str) -> tuple[int, str, dict]:
    """`clove run ARGS`; gives code, output and certificate."""
    name = f"t{time.monotonic_ns()}"
    done = clove("run", "--name", name, *args)
    shown = json.loads(clove("inspect", name, "--json").stdout)
    return done.returncode, done.stdout + done.stderr, shown["certificate"]


def python(code: str) -> list[str]:
    return ["--", PYTHON, "-c", code]


@check
def memory_limit_kills_only_the_hog_and_is_called_oom() -> None:
    code, out, c = run("-m", "64m", *python("x=[bytearray(1<<20) for _ in range(200)]"))
    assert (code, c["cause"]) == (137, "oom"), (code, out, c)
    assert c["usage"]["oom_kills"] >= 1, c
    assert c["usage"]["peak_memory_bytes"] <= 66 << 20, c
    # The same within its limit: the positive control.
    code, out, c = run("-m", "300m", *python("x=[bytearray(1<<20) for _ in range(200)]; print('fits')"))
    assert code == 0 and "fits" in out, (code, out, c)


@check
def an_oom_of_a_child_ends_the_whole_agent() -> None:
    hog = "import subprocess,sys; subprocess.run([sys.executable,'-c','x=[bytearray(1<<20) for _ in range(200)]']); print('went on')"
    code, out, c = run("-m", "64m", *python(hog))
    assert c["cause"] == "oom" and "went on" not in out, (code, out, c)


@check
def any_other_sigkill_is_not_called_oom() -> None:
    code, out, c = run(*python("import os; os.kill(os.getpid(), 9)"))
    assert (code, c["cause"]) == (137, "killed"), (code, out, c)


@check
def process_limit_refuses_forks_and_is_named() -> None:
    bomb = "import os,sys,time\nfor i in range(50):\n    if os.fork() == 0: time.sleep(30); os._exit(0)\n"
    code, out, c = run("--pids-limit", "20", *python(bomb))
    assert c["cause"] == "pids" and c["usage"]["pids_refused"] >= 1, (code, out, c)


@check
def cpu_quota_throttles() -> None:
    # Only the loop counts: starting Python takes this slow machine longer when the host is busy.
    spin = (
        "import time\nt, c = time.monotonic(), time.process_time()\n"
        "while time.monotonic() - t < 2: pass\nprint(time.process_time() - c)"
    )
    code, out, c = run("--cpus", "0.25", *python(spin))
    assert code == 0 and float(out.split()[0]) < 1.0 and c["usage"]["throttled_periods"] > 0, (out, c)


@check
def disk_limit_gives_enospc_and_is_named() -> None:
    fill = "f=open('/work/f','wb')\nfor i in range(64): f.write(bytes(1<<20)); f.flush()"
    code, out, c = run("--disk", "8m", "-m", "128m", *python(fill))
    assert c["cause"] == "disk" and "No space left" in out, (code, out, c)


@check
def timeout_is_not_called_a_kill() -> None:
    code, out, c = run("--timeout", "1s", *python("import time; time.sleep(60)"))
    assert (code, c["cause"]) == (124, "timeout"), (code, out, c)


@check
def a_kill_takes_the_whole_tree_and_is_signed() -> None:
    tree = (
        "import os,signal,time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for i in range(10):\n    if os.fork() == 0: os.setsid(); time.sleep(600)\nprint('up', flush=True); time.sleep(600)"
    )
    name = "tree"
    assert clove("run", "-d", "--name", name, *python(tree)).returncode == 0
    deadline = time.monotonic() + 60
    while "up" not in clove("logs", name).stdout:
        assert time.monotonic() < deadline, "it never came up"
    assert clove("kill", name).returncode == 0
    clove("wait", name)
    c = json.loads(clove("inspect", name, "--json").stdout)["certificate"]
    assert c["cause"] == "killed" and c["killed_by"]["kind"] == "operator", c
    left = [p for p in os.listdir("/proc") if p.isdigit() and b"time.sleep(600)" in read(f"/proc/{p}/cmdline")]
    assert left == [], left


def read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


@check
def a_warm_sweep_survives_a_crash_and_a_leak() -> None:
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        script = Path(folder) / "s.py"
        script.write_text(
            "import ctypes\n"
            "def setup(): return 100\n"
            "def run(config, shared):\n"
            "    if config['x'] == 2: ctypes.string_at(0)\n"
            "    if config['x'] == 4:\n"
            "        h = []\n"
            "        while True: h.append(bytearray(1 << 20))\n"
            "    return config['x'] + shared\n"
        )
        file = Path(folder) / "s.toml"
        file.write_text(
            f'script = "s.py"\npython = "{PYTHON}"\ngrid = {{ x = [0, 1, 2, 3, 4, 5] }}\n'
            '[limits]\nmemory = "128m"\n[retry]\ndeaths = 0\n'
        )
        os.chmod(folder, 0o755)
        done = clove("sweep", "run", str(file), "--json", timeout=240)
        runs = json.loads(clove("sweep", "ls", "--json").stdout)
        tasks = json.loads(clove("sweep", "results", runs[0]["id"], "--json").stdout)
        states = [t["state"] for t in tasks]
        assert states == ["done", "done", "quarantined", "done", "quarantined", "done"], (states, done.stderr)
        assert [t["result"] for t in tasks if t["state"] == "done"] == [100, 101, 103, 105], tasks
        causes = [t["certificates"][-1]["cause"] for t in tasks if t["state"] == "quarantined"]
        assert causes == ["signal", "oom"], causes


@check
def the_walls_stand_without_landlock_and_that_is_said() -> None:
    code, out, c = run(*python("import os; print(os.getuid(), os.path.exists('/run/home'))"))
    assert code == 0 and "1000 False" in out, out
    assert "landlock" in c["missing_walls"], c
    assert os.path.exists("/run/home"), "the positive control: outside it is there"


@check
def strict_is_refused_without_landlock() -> None:
    done = clove("run", "--profile", "strict", "--", "true")
    assert done.returncode == 125 and "Landlock" in done.stderr and "default profile" in done.stderr, done
    assert clove("run", "--profile", "default", "--", "true").returncode == 0, "the positive control"
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        os.chmod(folder, 0o755)
        for name, text in (
            ("s.py", "def run(config, shared): return 1\n"),
            ("s.sh", "#!/bin/sh\necho 1 > $CLOVE_RESULT\n"),
        ):
            script = Path(folder) / name
            script.write_text(text)
            script.chmod(0o755)
            args = ["sweep", "run", str(script), "--grid", "x=1,2", "--python", PYTHON]
            refused = clove(*args, "--profile", "strict")
            assert refused.returncode == 125 and "Landlock" in refused.stderr, refused
            assert clove(*args).returncode == 0, "the positive control"


@check
def a_crash_starts_no_handler_of_the_host() -> None:
    # As on hosts with systemd-coredump or apport: a program of root's, run on the crashed memory. It doesn't ask for
    # RLIMIT_CORE 0, which only keeps core files from being written.
    handler, seen = Path("/run/handler"), Path("/run/handler-ran")
    handler.write_text("#!/bin/sh\ncat > /dev/null\necho ran > /run/handler-ran\n")
    handler.chmod(0o755)
    pattern = Path("/proc/sys/kernel/core_pattern")
    before = pattern.read_text()
    pattern.write_text(f"|{handler}")
    crash = "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()"
    try:
        code, out, c = run(*python(crash))
        assert (code, c["cause"]) == (134, "signal"), (code, out, c)
        code, out, c = run("--", "sh", "-c", "ulimit -c 0; ulimit -c; kill -SEGV $$")
        assert (code, c["cause"]) == (139, "signal"), (code, out, c)
        # A process ends when its handler has read its memory, so it would have run by now.
        assert not seen.exists(), "an agent's crash has run a program of the host"
        # The positive control.
        assert subprocess.run([PYTHON, "-c", crash], check=False).returncode == -6
        deadline = time.monotonic() + 30
        while not seen.exists():
            assert time.monotonic() < deadline, "the handler is never run, so this shows nothing"
            time.sleep(0.05)
    finally:
        pattern.write_text(before)


@check
def doctor_tells_this_world_apart() -> None:
    shown = json.loads(clove("doctor", "--json").stdout)
    by_id = {f["id"]: f for f in shown}
    text = json.dumps(shown)
    assert "v2" in text, text
    for wanted in ("memory", "cpu", "pids"):
        hits = [f for i, f in by_id.items() if wanted in i and f.get("kind") in ("limit", "Limit")]
        assert hits and all(f["enforced"] for f in hits), (wanted, hits, sorted(by_id))
    landlock = [f for i, f in by_id.items() if "landlock" in i]
    assert landlock and not any(f["enforced"] for f in landlock), landlock
    assert not by_id["strict"]["enforced"] and "Landlock" in by_id["strict"]["how"], by_id["strict"]


@check
def the_state_is_what_the_journal_says() -> None:
    done = clove("kernel", "check")
    assert done.returncode == 0, done.stdout + done.stderr


@check
def stopping_leaves_no_group_behind() -> None:
    assert clove("stop", "--force").returncode == 0
    deadline = time.monotonic() + 30
    while True:
        left = [p for p in Path("/sys/fs/cgroup").iterdir() if p.is_dir() and p.name.startswith("clove")]
        if not left:
            return
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def main() -> int:
    failed = 0
    for name, f in checks:
        began = time.monotonic()
        try:
            f()
            print(f"ok {name} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception as e:  # one failing check must not hide the others
            failed += 1
            where = traceback.extract_tb(e.__traceback__)[-1].lineno
            print(f"FAILED {name}: line {where}: {type(e).__name__}: {str(e)[:1500]}", flush=True)
    log = read("/run/home/clove/kernel.log").decode(errors="replace")
    if failed:
        print("kernel.log:\n" + log[-3000:])
    print(f"UML-RESULT {len(checks) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
