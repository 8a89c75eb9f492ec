"""Power loss: a machine of ours is ended at random moments of a sweep, boots from the same disk, and resumes.

The machine is User-Mode Linux, whose disk is a file of the host. SIGKILL to its host processes takes the page cache of
the guest; the host's file keeps what the guest had written to its disk, so what wasn't made durable is gone. Then:

- every task shown as done is done, with the same result and its artefact, and never runs again;
- no task runs twice in one boot, and each ends with exactly one accepted result;
- a run that was confirmed is there, the kernel starts, and `clove kernel check` says equal.

Some rounds have a disk whose fdatasync is slow, so that what is shown too early is lost for certain. The negative control
is the same program with an fdatasync that does nothing (both: `strange_disk.py`): it must lose results that were shown, or
the rest of the test shows nothing. What this can't show: a disk that loses or reorders writes which it has
taken but not been told to flush, as the host's page cache keeps them all.

Usage: power_loss.py LINUX.UML CLOVE [SEED...]; CLOVE_HEAVY=1 for many rounds.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TASKS = 30
#: Seconds for one boot. A right program on a free machine needs ten.
PATIENCE = 150.0


class Machine:
    """One boot of the small Linux, until it powers off or is ended."""

    def __init__(self, uml: str, clove: str, disks: list[Path], tasks: int, boot: int, step: str, disk: str) -> None:
        python = os.path.realpath(sys.executable)
        args = [uml, "mem=768M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet", "con=null"]
        args += ["con0=null,fd:1", "con1=fd:0,fd:1", f"init={HERE}/init", "cgroup_no_v1=all"]
        args += [f"ubd{letter}={file}" for letter, file in zip("ab", disks)]
        args += [f"CLOVE_PYTHON={python}", f"CLOVE_SUITE={HERE}/power_guest.py", f"CLOVE_PROGRAM={clove}"]
        args += [f"POWER_STEP={step}", f"POWER_BOOT={boot}", f"POWER_TASKS={tasks}", f"POWER_DISK={disk}"]
        # A group of its own: the guest's processes are processes of the host too.
        self.child = subprocess.Popen(
            args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert self.child.stdout
        os.set_blocking(self.child.stdout.fileno(), False)
        self.deadline = time.monotonic() + PATIENCE
        self.seen = b""
        self._taken = 0
        self.closed = False

    def news(self, until: float) -> list[dict[str, Any]]:
        """What the guest says; empty when the time has come, or it is gone."""
        assert self.child.stdout
        fd = self.child.stdout.fileno()
        while not self.closed:
            wait = until - time.monotonic()
            if wait <= 0 or not select.select([fd], [], [], wait)[0]:
                return []
            piece = os.read(fd, 65536)
            self.closed = not piece
            self.seen += piece
            *lines, rest = self.seen[self._taken :].split(b"\n")
            self._taken = len(self.seen) - len(rest)
            told = [json.loads(line[6:]) for line in lines if line.startswith(b"POWER ")]
            if told:
                return told
        return []

    def cut_power(self) -> None:
        """SIGKILL to every process of the machine; gone when this returns."""
        end = time.monotonic() + 30
        while True:
            try:
                os.killpg(self.child.pid, signal.SIGKILL)
            except ProcessLookupError:
                break
            if self.child.poll() is not None and time.monotonic() > end:
                raise AssertionError("processes of the machine don't die")
            time.sleep(0.002)
        self.child.wait()
        assert self.child.stdout
        self.child.stdout.close()


@dataclasses.dataclass
class Moment:
    """When the power goes: so long after the disk was mounted, or after so many more results were shown."""

    after_mount: float | None
    after_done: int
    then: float

    def __str__(self) -> str:
        if self.after_mount is not None:
            return f"{self.after_mount:.3f} s after mounting the disk"
        return f"{self.then * 1000:.0f} ms after {self.after_done} more results"


class Round:
    """One disk, several boots, and what the user was shown over all of them."""

    def __init__(self, uml: str, clove: str, seed: int, kills: int, disk: str = "plain") -> None:
        self.uml, self.clove, self.seed, self.kills, self.disk = uml, clove, seed, kills, disk
        self.tasks = TASKS
        self.random = random.Random(f"{seed} {disk}")
        #: The boot in which each task was shown as done.
        self.done: dict[int, int] = {}
        #: What was shown as the result, and found as the artefact, of each.
        self.results: dict[int, Any] = {}
        #: As many were shown as done by `sweep ls`.
        self.counted = 0
        self.submitted = False
        self.wrong: list[str] = []
        self.story: list[str] = []
        self.boot = 0
        self.console = ""

    def run(self) -> Round:
        shm = Path("/dev/shm")
        roomy = shm.is_dir() and shutil.disk_usage(shm).free > 2 << 30
        folder = Path(tempfile.mkdtemp(prefix="clove-power-", dir=shm if roomy else None))
        try:
            disks = [folder / "data", folder / "log"]
            for disk in disks:
                with disk.open("wb") as f:
                    f.truncate(128 << 20)
                mkfs = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
                assert mkfs, "mkfs.ext4 isn't there: scripts/setup test installs it"
                subprocess.run([mkfs, "-q", "-F", disk], check=True)
            for _ in range(self.kills):
                self.one_boot(disks, "go", self.draw())
            self.one_boot(disks, "look" if self.disk == "lies" else "go", None)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return self

    def draw(self) -> Moment:
        left = self.tasks - len(self.done)
        # The others have to have shown something that can be lost.
        if self.disk == "plain" and (left < 2 or self.random.random() < 0.25):
            return Moment(self.random.uniform(0, 2.5), 0, 0)
        # At once after a result was shown, what comes after the showing hasn't happened yet.
        then = 0 if self.disk == "slow" else self.random.choice([0, self.random.uniform(0, 0.25)])
        return Moment(None, self.random.randint(1, max(1, left // 2)), then)

    def one_boot(self, disks: list[Path], step: str, moment: Moment | None) -> None:
        self.boot += 1
        machine = Machine(self.uml, self.clove, disks, self.tasks, self.boot, step, self.disk)
        due = None
        shown = 0
        over = False
        try:
            while not over:
                news = machine.news(min(due or machine.deadline, machine.deadline))
                for word in news:
                    # The watcher begins with those of earlier boots.
                    shown += word["what"] == "done" and word["task"] not in self.done
                    self.hear(word)
                    over = over or word["what"] in ("over", "trouble")
                    if moment is None or due is not None:
                        continue
                    if word["what"] == "mounted" and moment.after_mount is not None:
                        due = time.monotonic() + moment.after_mount
                    elif word["what"] == "done" and moment.after_mount is None and shown >= moment.after_done:
                        due = time.monotonic() + moment.then
                if due is not None and time.monotonic() >= due:
                    break
                if machine.closed:
                    over = True
                elif time.monotonic() >= machine.deadline:
                    self.wrong.append(f"stuck: boot {self.boot} didn't come to its end in {PATIENCE:.0f} s")
                    break
            cut = f"power cut {moment}" if due is not None and not over else "ran to its end"
            self.story.append(f"boot {self.boot}: {cut}; {shown} more shown as done")
            if moment is None and step == "go" and not self.wrong and len(self.done) != self.tasks:
                self.wrong.append(f"stuck: {len(self.done)} of {self.tasks} done at the end")
        finally:
            machine.cut_power()
            self.console = machine.seen.decode(errors="replace")[-4000:]

    def hear(self, word: dict[str, Any]) -> None:
        what = word["what"]
        if what == "started" and word["filters"] != int(self.disk != "plain"):
            self.wrong.append(f"harness: {word['filters']} seccomp filters on the kernel, the disk: {self.disk}")
        elif what == "submitted":
            self.submitted = True
        elif what == "done":
            self.done.setdefault(word["task"], self.boot)
        elif what == "counted":
            self.counted = max(self.counted, word["done"])
        elif what == "trouble":
            self.wrong.append(f"trouble: {word['command']} ended with {word['code']}: {word['out']}")
        elif what == "found":
            self.compare(word)

    def compare(self, found: dict[str, Any]) -> None:
        when = f"boot {self.boot}, {found['when']}"
        done = {int(i): result for i, result in found["done"].items()}
        lost = sorted(self.done.keys() - done.keys())
        if lost:
            self.wrong.append(f"lost: {when}: shown as done, and not done any more: {lost}")
        if len(done) < self.counted:
            self.wrong.append(f"lost: {when}: {self.counted} were counted as done, {len(done)} are")
        if self.submitted and found["runs"] != 1:
            self.wrong.append(f"lost: {when}: one sweep was confirmed, there are {found['runs']}")
        if found["check"] != ["equal"]:
            self.wrong.append(f"check: {when}: {found['check']}")
        ran = [(int(task), int(boot)) for task, boot in found["ran"]]
        for task, boot in self.done.items():
            later = [b for t, b in ran if t == task and b > boot]
            if later:
                self.wrong.append(f"again: {when}: {task} was shown as done in boot {boot}, and ran in {later}")
        for pair in sorted({pair for pair in ran if ran.count(pair) > 1}):
            self.wrong.append(f"twice: {when}: task {pair[0]} was executed {ran.count(pair)} times in boot {pair[1]}")
        for task, result in done.items():
            boot = result["boot"]
            if result != {"square": task * task, "boot": boot} or (task, boot) not in ran:
                self.wrong.append(f"changed: {when}: task {task} has the result {result}")
            if self.results.setdefault(task, result) != result:
                self.wrong.append(f"changed: {when}: task {task}: {self.results[task]} became {result}")
            kept = found["kept"].get(str(task))
            if kept != f"artefact {task} of boot {boot}":
                self.wrong.append(f"artefact: {when}: of task {task}, done in boot {boot}: {kept}")
        for task, said in found["said"].items():
            # Output isn't made durable; but what is there is of the attempt that counts.
            if said not in ("", f"said {task} in boot {done[int(task)]['boot']}\n"):
                self.wrong.append(f"output: {when}: task {task}, {done[int(task)]}, printed {said!r}")
        if found["when"] == "at the end" and (sorted(done) != list(range(self.tasks)) or found["state"] != "finished"):
            self.wrong.append(f"missing: {when}: {found['state']}, done are {sorted(done)}")


def main() -> int:
    uml, clove = sys.argv[1:3]
    heavy = os.environ.get("CLOVE_HEAVY") == "1"
    seeds = [int(s) for s in sys.argv[3:]] or [
        random.SystemRandom().randrange(10**6) for _ in range(12 if heavy else 2)
    ]
    rounds = [Round(uml, clove, s, 4 if heavy else 2, "slow" if i % 2 else "plain") for i, s in enumerate(seeds)]
    controls = [Round(uml, clove, s, 1, "lies") for s in (seeds if heavy else seeds[:1])]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        began = time.monotonic()
        for r in pool.map(Round.run, [*controls, *rounds]):
            print(f"seed {r.seed}, disk {r.disk}, {time.monotonic() - began:.0f} s: {'; '.join(r.story)}")
            if r.disk == "lies":
                # The kernel came up, knew the sweep, and the results were gone.
                lost = any(w.startswith("lost: ") and "shown as done" in w for w in r.wrong)
                good = lost and all(w.startswith("lost: ") for w in r.wrong)
                print(
                    "  as it must be: " if good else "  the negative control passed, so this test proves nothing: ",
                    end="",
                )
                print("; ".join(w[:200] for w in r.wrong) or "nothing was lost")
            else:
                good = not r.wrong
                for w in r.wrong:
                    print(f"  WRONG {w}")
            if not good:
                failed += 1
                print(f"  last boot's console:\n{r.console}")
    total = len(rounds) + len(controls)
    print(f"POWER-RESULT {total - failed} passed, {failed} failed; seeds {' '.join(map(str, seeds))}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
