"""The guest's side of the power-loss test: runs in User-Mode Linux, tells the host what was shown to its user.

Everything of the data directory lies on an ext4 disk of its own. A second disk, mounted `sync`, takes one line for each
execution of a task, so that the lines survive what the data directory may not. The host reads lines `POWER {...}` on the
console, and ends the machine whenever it likes. Needs nothing but Python's standard library.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

CLOVE = sys.argv[1]
STEP, BOOT, TASKS = os.environ["POWER_STEP"], int(os.environ["POWER_BOOT"]), int(os.environ["POWER_TASKS"])
DATA, LOG, WORK = Path("/run/data"), Path("/run/log"), Path("/run/w")
HOME = DATA / "new/home"
os.environ["CLOVE_HOME"] = str(HOME)

#: Says that it ran before it does anything else. Its result, its artefact and its output tell which boot they are of.
TRIAL = """#!/bin/sh
read boot < /log/boot
echo "$CLOVE_TASK $boot" >> /log/ran
echo "artefact $CLOVE_TASK of boot $boot" > $CLOVE_OUT/kept
echo "said $CLOVE_TASK in boot $boot"
echo "{\\"square\\": $((CLOVE_TASK * CLOVE_TASK)), \\"boot\\": $boot}" > $CLOVE_RESULT
"""


def tell(what: str, **more: Any) -> None:
    """One line to the host, with one write."""
    os.write(1, f"\nPOWER {json.dumps({'what': what, **more})}\n".encode())


def clove(*args: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [CLOVE, *args], check=False, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, cwd=WORK
    )
    if done.returncode != 0:
        tell("trouble", command=args, code=done.returncode, out=(done.stdout + done.stderr)[-2000:])
    return done


def mount(disk: str, at: Path, options: str) -> None:
    at.mkdir()
    # Debian's mount would look for the type by itself, and then also try others: a damaged ext4 must be an error.
    subprocess.run(["mount", "-t", "ext4", "-o", options, disk, at], check=True)


def prepare() -> None:
    mount("/dev/ubda", DATA, "rw")
    mount("/dev/ubdb", LOG, "sync")
    LOG.chmod(0o777)
    (LOG / "boot").write_text(f"{BOOT}\n")
    (LOG / "ran").touch()
    (LOG / "ran").chmod(0o666)
    WORK.mkdir()
    (WORK / "trial.sh").write_text(TRIAL)
    (WORK / "trial.sh").chmod(0o755)
    (WORK / "list.jsonl").write_text("".join(f'{{"i": {i}}}\n' for i in range(TASKS)))


def listed() -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads(clove("sweep", "ls", "--json").stdout or "[]")
    return runs


def found(when: str) -> str | None:
    """Tells the host what is there; the sweep's state."""
    runs = listed()
    tasks = {}
    if runs:
        for t in json.loads(clove("sweep", "results", "last", "--json").stdout or "[]"):
            if t["state"] == "done":
                tasks[t["index"]] = t["result"]
    art = Path("/run/art")
    shutil.rmtree(art, ignore_errors=True)
    if tasks:
        clove("sweep", "artifacts", "last", str(art))
    kept = {p.name: (p / "kept").read_text().strip() for p in art.glob("*") if (p / "kept").exists()}
    check = clove("kernel", "check")
    ran = [line.split() for line in (LOG / "ran").read_text().splitlines()]
    # What those printed that were begun again: a few, as each costs a process.
    again = sorted(i for i in tasks if sum(int(task) == i for task, _ in ran) > 1)[:3]
    said = {i: clove("logs", f"{runs[0]['id']}/{i}").stdout for i in again}
    state = runs[0]["state"] if runs else None
    log = HOME / "kernel.log"
    tell(
        "found",
        when=when,
        runs=len(runs),
        state=state,
        done=tasks,
        kept=kept,
        said=said,
        ran=ran,
        check=check.stdout.splitlines()[-1:] if check.returncode == 0 else check.stdout + check.stderr,
        kernel_log=log.read_text(errors="replace")[-1500:] if log.exists() else "",
    )
    return state


def watch() -> None:
    """Passes on what `sweep watch` shows as done, as soon as it does."""
    child = subprocess.Popen([CLOVE, "sweep", "watch", "last"], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    seen = 0
    for line in child.stdout:
        change = json.loads(line)
        if change["kind"] == "task" and change["task"]["state"] == "done":
            tell("done", task=change["task"]["index"])
            seen += 1
            if seen % 5 == 0:
                tell("counted", done=listed()[0]["done"])


def main() -> None:
    prepare()
    disk = os.environ["POWER_DISK"]
    tell("mounted")
    strange = [os.environ["CLOVE_PYTHON"], str(Path(__file__).parent / "strange_disk.py"), disk]
    start = [CLOVE] if disk == "plain" else [*strange, CLOVE]
    began = subprocess.run(
        [*start, "kernel", "socket", "--start"], check=False, capture_output=True, text=True, timeout=60
    )
    if began.returncode != 0:
        log = (HOME / "kernel.log").read_text(errors="replace")[-3000:]
        tell("trouble", command="start", code=began.returncode, out=began.stderr + log)
        return
    status = Path(f"/proc/{(HOME / 'lock').read_text().split()[0]}/status").read_text()
    tell("started", filters=int(status.partition("Seccomp_filters:")[2].split()[0]))
    state = found("after the boot") if BOOT > 1 else None
    if STEP == "look":
        return
    if state is None:
        submitted = clove("sweep", "run", "./trial.sh", "--list", "list.jsonl", "-j", "2", "-v", f"{LOG}:/log:rw", "-d")
        if submitted.returncode == 0:
            tell("submitted")
        if disk == "lies":
            # So that what is lost are results, and not the whole sweep.
            os.sync()
    elif state != "finished":
        clove("sweep", "resume", "last", "-d")
    watch()
    found("at the end")
    clove("stop", "--force")
    tell("over")


try:
    main()
except BaseException as e:
    tell("trouble", command="guest", code=1, out=f"{type(e).__name__}: {e}")
    raise
