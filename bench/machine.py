"""Facts about this machine, for the report's head."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

from places import ROOT, Places

#: A machine that does more than this beside the benchmark measures its own work.
QUIET_LOAD = 0.5


def facts(places: Places) -> dict[str, str]:
    """What a reader needs to judge the figures, in the order of the table."""
    found = {
        "when": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "commit": _commit() or "unknown",
        "clove": f"{_said(str(places.clove), 'version') or 'unknown'} ({places.clove})",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "CPUs": f"{len(os.sched_getaffinity(0))}, {_cpu_model()}",
        "memory": f"{_meminfo('MemTotal') / 2**30:.1f} GiB, {_meminfo('MemAvailable') / 2**30:.1f} GiB available",
        "load at the start": " ".join(f"{x:.2f}" for x in os.getloadavg()),
        "Python": platform.python_version(),
    }
    for package in ("numpy", "scikit-learn", "loky", "ray"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    for tool in ("bwrap", "crun", "runc"):
        found[tool] = _said(tool, "--version") if shutil.which(tool) else "not installed"
    return found


def warnings(places: Places, quick: bool) -> list[str]:
    """What makes the figures worth less."""
    said = []
    if quick:
        said.append("A quick run: it shows that every benchmark works. Its figures mean nothing.")
    if "debug" in places.clove.parts:
        said.append("A debug build: its figures mean nothing.")
    load = os.getloadavg()[0]
    if load > QUIET_LOAD:
        said.append(f"The machine wasn't quiet: its load was {load:.2f} when this began.")
    return said


def _commit() -> str:
    """From .git's own files, where there is one."""
    git = ROOT / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).exists():
            return (git / name).read_text().strip()
        for line in (git / "packed-refs").read_text().splitlines():
            if line.endswith(" " + name):
                return line.split()[0]
    except OSError:
        pass
    return ""


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter((done.stdout + done.stderr).splitlines()), "").strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown model"


def _meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    return 0
