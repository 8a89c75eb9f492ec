"""Looks for everything that an agent must not have, and prints what it found as JSON. Run outside, it finds all of it."""

import ctypes
import json
import os
import socket
import subprocess
import sys

SECRET, PORT, VICTIM, HOME = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
found = {}


def look(name, probe):
    try:
        found[name] = bool(probe())
    except Exception:
        found[name] = False


def status(key):
    with open("/proc/self/status") as f:
        return next(line.split()[1] for line in f if line.startswith(key))


def connects(address):
    with socket.create_connection(address, timeout=2):
        return True


def signals(pid):
    os.kill(pid, 0)
    return True


def ptrace():
    child = subprocess.Popen(["sleep", "5"])
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        return libc.ptrace(16, child.pid, 0, 0) == 0
    finally:
        child.kill()


def descriptors():
    for n in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{n}")
        except OSError:
            pass


def call(number, *args):
    return ctypes.CDLL(None).syscall(number, *args) >= 0


look("file of the host", lambda: open(SECRET).read())
look("folder of the host", lambda: os.listdir(HOME))
look("shadow", lambda: open("/etc/shadow").read())
look("file by way of init", lambda: open("/proc/1/root" + SECRET).read())
look("file by climbing", lambda: open("../" * 40 + SECRET[1:]).read())
look("process of the host", lambda: os.path.exists(f"/proc/{VICTIM}/status") and signals(VICTIM))
look("many processes", lambda: sum(p.isdigit() for p in os.listdir("/proc")) > 5)
look("network", lambda: connects(("127.0.0.1", PORT)))
look("interfaces", lambda: len(os.listdir("/sys/class/net")) > 1 or [i for i in socket.if_nameindex() if i[1] != "lo"])
look("abstract socket", lambda: socket.socket(socket.AF_UNIX).connect(f"\0clove-probe-{PORT}") is None)
look("effective capabilities", lambda: int(status("CapEff"), 16))
look("bounding capabilities", lambda: int(status("CapBnd"), 16))
look("new privileges", lambda: status("NoNewPrivs") == "0")
look("no filter", lambda: status("Seccomp") == "0")
look("root id", lambda: os.getuid() == 0 or os.geteuid() == 0)
look(
    "mount",
    lambda: ctypes.CDLL(None).mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0
    and (ctypes.CDLL(None).umount(b"/tmp") or True),
)
look("set host name", lambda: call(170, name := os.uname().nodename.encode(), len(name)))
look("keyring", lambda: call(250, 0, -3, 0))
look("bpf", lambda: call(321, 0, ctypes.create_string_buffer(b"\x01\0\0\0\x04\0\0\0\x08\0\0\0\x01\0\0\0", 72), 72))
look("perf", lambda: call(298, ctypes.create_string_buffer(b"\x01\0\0\0\x70\0\0\0", 112), 0, -1, -1, 0))
look("write to /usr", lambda: os.access("/usr", os.W_OK))
look("write to sysctl", lambda: os.access("/proc/sys/kernel/core_pattern", os.W_OK))
look(
    "devices",
    lambda: os.path.exists("/dev/kmsg")
    or os.path.exists("/dev/mem")
    or [d for d in os.listdir("/dev") if d.startswith(("sd", "vd", "loop"))],
)
look("cgroup tree", lambda: os.listdir("/sys/fs/cgroup"))
look("kernel's own socket", lambda: [d for d in os.listdir("/run") if d.startswith("clove-0-")])
look("environment of the caller", lambda: os.environ["PROBE_SECRET"])
look(
    "descriptors of the kernel",
    lambda: [p for p in descriptors() if p.startswith("/") and not p.startswith(("/dev/", "/proc/"))],
)
# Last, as it changes who this process is.
look("user namespace", lambda: call(272, 0x10000000))
print(json.dumps(found))
