"""`kill -9` of the kernel, of the launcher, of everything, at random moments of a sweep, from its first start to its end.

After each death: no process of the dead kernel's agents lives on without a launcher above it; what was shown as done is
done, with the same result. At the end each task has exactly one accepted result, and none that was shown ran again.

How it is told that a process is nobody's: it lies in one of the data directory's control groups, as every agent does, or
has the kernel's name and this data directory in its environment, as all that the launcher has forked; and the kernel that
holds the data directory's lock isn't among its ancestors.

`CLOVE_HEAVY=1` for 100 moments of sweeps of 200; `CLOVE_SEED=N` to draw the same moments again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Dict, List, Optional, Set, Tuple

import pytest
from conftest import HEAVY
from deadline import until
from house import House, alive, finish

SEED = int(os.environ.get("CLOVE_SEED") or random.SystemRandom().randrange(10**6))
#: Tasks of a sweep; moments over all sweeps of a kind; how often one sweep is struck at most.
TASKS, MOMENTS, DEATHS = (200, 34, 5) if HEAVY else (40, 4, 3)

#: What ran, and which of its executions it was, is told by a random word: in the log, in the result, in the artefact.
WARM = """
    import os, time

    def setup():
        time.sleep(0.2)  # so that some deaths meet a template that is being built

    def run(config, shared):
        word = os.urandom(8).hex()
        fd = os.open("/log/ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(fd, f"{config['i']} {word}\\n".encode())
        os.close(fd)
        with open(os.environ["CLOVE_OUT"] + "/word", "w") as f:
            f.write(word)
        time.sleep(0.01 * (config["i"] % 3))
        return {"i": config["i"], "word": word}
"""
COLD = """
    #!/bin/sh
    word=$(od -An -N8 -tx1 /dev/urandom | tr -d ' ')
    echo "$CLOVE_TASK $word" >> /log/ran
    printf %s "$word" > "$CLOVE_OUT/word"
    echo "{\\"i\\": $CLOVE_TASK, \\"word\\": \\"$word\\"}" > "$CLOVE_RESULT"
"""


class Sweep:
    """One sweep, what its user was shown of it over all deaths, and what ran."""

    def __init__(self, house: House, kind: str, tasks: int, name: str) -> None:
        self.house, self.tasks, self.name = house, tasks, name
        self.log = house.work / "log"
        self.log.mkdir(exist_ok=True)
        (self.log / "ran").write_text("")
        (self.log / "ran").chmod(0o666)
        house.write("warm.py", WARM)
        house.write("cold.sh", COLD, 0o755)
        (house.work / "list.jsonl").write_text("".join(json.dumps({"i": i}) + "\n" for i in range(tasks)))
        what = ["./cold.sh"] if kind == "cold" else ["warm.py", *(["--reuse", "4"] if kind == "reused" else [])]
        self.submit = ["sweep", "run", *what, "--list", "list.jsonl", "--name", name, "-v", f"{self.log}:/log:rw", "-d"]
        # When everything is killed one after the other, a living kernel may see its agents die first.
        self.submit += ["--retry-deaths", "100"]
        #: A command said that it is there.
        self.confirmed = False
        #: Shown as done, at any time.
        self.shown: Set[int] = set()
        #: Results as they were first seen.
        self.words: Dict[int, str] = {}
        #: The executions of those shown as done, as they were counted after the next death.
        self.settled: Dict[int, List[str]] = {}

    def executions(self) -> Dict[int, List[str]]:
        """The words of each task's executions so far."""
        found: Dict[int, List[str]] = {i: [] for i in range(self.tasks)}
        for line in (self.log / "ran").read_text().splitlines():
            task, word = line.split()
            found[int(task)].append(word)
        return found

    def begun(self, n: int) -> None:
        """Waits until that many tasks have begun."""
        until(lambda: sum(map(bool, self.executions().values())) >= n, f"{n} tasks begun", 120)

    def is_there(self) -> bool:
        return any(r["name"] == self.name for r in self.house.json("sweep", "ls"))

    def watch(self) -> threading.Thread:
        """Notes what is shown as done, until the kernel is gone or the sweep has ended."""
        return self.house.watch_done(self.name, self.shown)

    def compare(self, when: str) -> str:
        """Everything that was shown is still so. The sweep's state."""
        state = str(self.house.shown(self.name)["state"])
        words = {i: t["result"]["word"] for i, t in self.house.results(self.name).items() if t["state"] == "done"}
        assert self.shown <= words.keys(), f"{when}: shown as done, but lost: {self.shown - words.keys()}"
        executions = self.executions()
        for i, word in words.items():
            assert word in executions[i], f"{when}: {i} has a result that no execution gave: {word}, {executions[i]}"
            assert self.words.setdefault(i, word) == word, f"{when}: {i} had {self.words[i]}, and now has {word}"
        for i in words.keys() - self.settled.keys():
            self.settled[i] = executions[i]
        again = {i: executions[i] for i, before in self.settled.items() if executions[i] != before}
        assert not again, f"{when}: shown as done, and run again: {again}"
        self.shown |= words.keys()
        return state


def kernel_and_launcher(house: House) -> Tuple[Optional[int], Optional[int]]:
    """By parentage: the launcher is the kernel's child. What the launcher has forked has the same name."""
    parents = {p: above for p in house.kernel_pids() if (above := parent(p))}
    kernel = next((p for p, above in parents.items() if above not in parents), None)
    return kernel, next((p for p, above in parents.items() if above == kernel), None)


def parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return int(f.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def unclaimed(house: House) -> Dict[int, str]:
    """All processes of this data directory but a kernel that holds its lock, and what comes of that."""
    left = {}
    lock = (house.home / "lock").read_text().partition("\n")[0] if (house.home / "lock").exists() else ""
    for pid, command in house.processes().items():
        above = pid
        while above > 1 and str(above) != lock:
            above = parent(above)
        if str(above) != lock and alive(pid):
            left[pid] = command
    return left


def strike(house: House, victim: str) -> bool:
    """SIGKILL for the victim, as soon as it is there. False when the sweep's command ended before that."""
    end = time.monotonic() + 10
    while True:
        kernel, launcher = kernel_and_launcher(house)
        pid = kernel if victim == "kernel" else launcher
        if victim == "everything" and kernel:
            house.kill_everything()
            return True
        if victim != "everything" and pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return False
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.001)


@pytest.mark.parametrize("kind", ["warm", "reused", "cold"])
def test_sudden_death(house: House, kind: str) -> None:
    draw = random.Random(f"{SEED} {kind}")
    story: List[str] = []
    try:
        struck = 0
        for number in range(MOMENTS):
            struck += survive(house, kind, draw, f"{kind}-{number}", story, min(DEATHS, MOMENTS - struck))
            if struck == MOMENTS:
                break
        story.append(f"{struck} deaths")
    finally:
        # Shown when it fails, or with -s.
        print(f"CLOVE_SEED={SEED}", *story, sep="\n")


def survive(house: House, kind: str, draw: random.Random, name: str, story: List[str], most: int) -> int:
    """One sweep, from a kernel's first start to the last result; how often it was struck."""
    if house.home.exists():
        house.clove("stop", "--force").ok()
    sweep = Sweep(house, kind, TASKS, name)
    deaths = 0
    state = "absent"
    while state != "finished":
        if state == "absent":
            command = house.start(*sweep.submit)
        else:
            # Not the sweep's, but a command's kernel had died before the sweep was there: then it is active.
            command = house.start("sweep", *(["resume", name, "-d"] if state != "active" else ["show", name]))
        if deaths == most:
            finish(command).ok()
            house.clove("sweep", "attach", name).ok()
            break
        deaths += 1
        victim = draw.choice(["kernel", "launcher", "everything"])
        # Early: while the kernel starts, the sweep is submitted, the template built. Late: at the very end.
        moment = draw.choices(["early", "midst", "late"], [3, 4, 2])[0]
        watching = None
        if moment == "early":
            wait = draw.uniform(0, draw.choice([0.1, 0.6]))
            time.sleep(wait)
            what = f"{wait:.3f} s after its start"
        else:
            finish(command).ok()
            watching = sweep.watch()
            done = len(sweep.words)
            goal = TASKS - draw.randint(0, 2) if moment == "late" else draw.randint(done, TASKS)
            sweep.begun(goal)
            wait = draw.uniform(0, 0.05)
            time.sleep(wait)
            what = f"{wait:.3f} s after {goal} were begun"
        hit = strike(house, victim)
        story.append(f"{name}: death {deaths}, {victim}, {what}{'' if hit else ', which was gone'}")
        ended = finish(command)
        sweep.confirmed = sweep.confirmed or ended.code == 0
        until(lambda: not unclaimed(house), f"the end of all unclaimed, {unclaimed(house)}", 20)
        if watching:
            watching.join(60)
            assert not watching.is_alive(), "the watcher hangs"
        there = sweep.is_there()
        assert there or not sweep.confirmed, f"{name} was confirmed, and is lost"
        state = sweep.compare(f"after death {deaths}") if there else "absent"
        if state == "failed":
            # Likewise a template: killed while it was loading, it is as one that can't be loaded.
            assert victim == "everything" and "while it was loading" in house.shown(name)["message"]
        else:
            assert state in ("absent", "active", "interrupted", "finished"), f"after death {deaths}: {state}"
        story.append(f"  {len(sweep.shown)} shown as done, {state}")
    state = sweep.compare("at the end")
    show = house.shown(name)
    assert (state, show["done"], show["running"], show["pending"]) == ("finished", TASKS, 0, 0), show
    results = house.results(name)
    assert [(i, t["state"], t["result"]["i"]) for i, t in sorted(results.items())] == [
        (i, "done", i) for i in range(TASKS)
    ]
    kept = house.work / f"kept-{name}"
    house.clove("sweep", "artifacts", name, str(kept)).ok()
    words = {i: (kept / str(i) / "word").read_text() for i in range(TASKS)}
    assert words == sweep.words, "artefacts are not those of the accepted results"
    lost = sum(len(e) - 1 for e in sweep.executions().values())
    assert lost <= deaths * 4 * len(os.sched_getaffinity(0)), f"{lost} executions were for nothing"
    house.check()
    return deaths


def template(house: House) -> int:
    """The pid of the one template: the interpreter in a group of that name."""

    def found() -> Optional[int]:
        for pid, command in house.processes().items():
            if "cloveos._template" in command and "/template-" in Path(f"/proc/{pid}/cgroup").read_text():
                return pid
        return None

    return int(until(found, "a template"))


def test_a_template_that_is_killed_is_built_anew(house: House) -> None:
    sweep = Sweep(house, "warm", 60, "anew")
    house.clove(*sweep.submit).ok()
    for goal in (10, 30):
        sweep.begun(goal)
        os.kill(template(house), signal.SIGKILL)
    attached = house.clove("sweep", "attach", "anew")
    assert attached.code == 0, f"\n{attached}\n{house.kernel_log()}"
    assert sweep.compare("at the end") == "finished" and len(sweep.words) == 60
    assert house.kernel_log().count("it is built anew") == 2, house.kernel_log()


def test_a_template_that_always_dies_fails_its_sweep(house: House) -> None:
    house.write("fatal.py", """
        import os

        def run(config, shared):
            return 1

        os.register_at_fork(before=lambda: os.kill(os.getpid(), 9))
    """)  # fmt: skip
    ended = house.clove("sweep", "run", "fatal.py", "--grid", "a=1,2")
    assert ended.code == 125 and "the template process was ended by SIGKILL after it was ready" in ended.out, (
        f"\n{ended}"
    )
