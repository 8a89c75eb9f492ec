"""Command lines of other sandboxes that do what a cold cell of ours does, as far as they can."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

#: Folders that our cell shows read-only from the host, where the host has them.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc")
#: Writable folders of our cell, each a mount.
_WRITABLE = ("/work", "/tmp", "/out", "/checkpoint")
#: Where the programs are shown.
INSIDE = "/bench"


def available() -> list[str]:
    """Which of them are installed."""
    return [name for name in ("bwrap", "crun", "runc") if shutil.which(name)]


def bwrap(programs: Path, argv: list[str]) -> list[str]:
    """All namespaces, a root of its own, the same folders, no capabilities; no seccomp filter, Landlock or limits."""
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    command += ["--uid", "1000", "--gid", "1000", "--hostname", "agent"]
    command += ["--clearenv", "--setenv", "PATH", "/usr/bin:/bin"]
    for path in _SYSTEM:
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            command += ["--ro-bind", path, path]
    command += ["--ro-bind", str(programs), INSIDE, "--proc", "/proc", "--dev", "/dev"]
    for path in _WRITABLE:
        command += ["--tmpfs", path]
    return [*command, "--remount-ro", "/", "--chdir", "/work", "--", *argv]


def oci(tool: str, bundle: Path, programs: Path, argv: list[str]) -> list[str]:
    """crun or runc with a bundle of the same namespaces, folders and limits. It has no seccomp filter."""
    root = bundle / "rootfs"
    root.mkdir(parents=True)
    for path in _SYSTEM:
        if os.path.islink(path):
            os.symlink(os.readlink(path), root / path[1:])
        elif os.path.isdir(path):
            (root / path[1:]).mkdir()
    for path in (*_WRITABLE, INSIDE, "/proc", "/dev"):
        (root / path[1:]).mkdir()
    (bundle / "config.json").write_text(json.dumps(_config(tool, programs, argv)))
    name = f"clove-bench-{tool}-{os.getpid()}"
    return [tool, "--root", str(bundle / "state"), "run", "--bundle", str(bundle), name]


def surroundings() -> list[str]:
    """What to put before the command line of whoever starts them.

    crun refuses a host on which cgroup v2 is mounted beside v1 and has a controller: it is shown one without.
    """
    unified = "/sys/fs/cgroup/unified"
    return (
        ["unshare", "--mount", "sh", "-c", f'umount {unified} && exec "$@"', "sh"] if os.path.ismount(unified) else []
    )


def _config(tool: str, programs: Path, argv: list[str]) -> dict[str, Any]:
    read_only = ["rbind", "ro", "nosuid", "nodev"]
    shown = [p for p in _SYSTEM if os.path.isdir(p) and not os.path.islink(p)]
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "newinstance"]},
    ]
    mounts += [{"destination": p, "type": "bind", "source": p, "options": read_only} for p in shown]
    mounts += [{"destination": INSIDE, "type": "bind", "source": str(programs), "options": read_only}]
    mounts += [
        {"destination": p, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "size=64m"]}
        for p in _WRITABLE
    ]
    # An unprivileged range of the host, one to one with ours.
    ids = [{"containerID": 0, "hostID": 1_000_000, "size": 65536}]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 1000, "gid": 1000},
            "args": argv,
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/work",
            "capabilities": {k: [] for k in ("bounding", "effective", "permitted", "inheritable", "ambient")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 256, "soft": 256}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "agent",
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": t} for t in ("pid", "network", "ipc", "uts", "mount", "user", "cgroup")],
            "uidMappings": ids,
            "gidMappings": ids,
            "cgroupsPath": f"/clove-bench-{tool}-{os.getpid()}",
            "resources": {"memory": {"limit": 256 << 20}, "pids": {"limit": 64}},
        },
    }
