"""Plants, wherever the kernel reads what an agent leaves, names that lead to somebody else's files.

`plant` does it once; `swap` goes on for ever, changing a file or a folder for a link and back, so that a copier which
looks first and opens later follows one.
"""

import ctypes
import os
import socket


def plant(secret, folder, out, result=None):
    """Links to files, links to folders, links that climb, FIFOs, sockets, and an honest file as the control."""
    with open(f"{out}/honest", "w") as f:
        f.write("control")
    os.symlink(secret, f"{out}/link")
    os.symlink(folder, f"{out}/folder")
    os.symlink("../" * 40 + secret[1:], f"{out}/climb")
    os.symlink("/proc/self/root" + secret, f"{out}/magic")
    os.symlink(f"/proc/1/root{secret}", f"{out}/init")
    os.mkfifo(f"{out}/fifo")
    socket.socket(socket.AF_UNIX).bind(f"{out}/socket")
    os.mkdir(f"{out}/sub")
    os.symlink(secret, f"{out}/sub/link")
    if result == "link":
        os.symlink(secret, os.environ["CLOVE_RESULT"])
    elif result == "fifo":
        os.mkfifo(os.environ["CLOVE_RESULT"])
    elif result == "folder":
        os.mkdir(os.environ["CLOVE_RESULT"])


def swap(secret, folder, out):
    """Files and folders that by turns are links, and always there. Needs to be ended from outside."""
    pairs = []
    for n in range(8):
        with open(f"{out}/file{n}", "w") as f:
            f.write("harmless")
        os.mkdir(f"{out}/tree{n}")
        with open(f"{out}/tree{n}/secret", "w") as f:
            f.write("harmless")
        for name, to in ("file", secret), ("tree", folder):
            os.symlink(to, f"{out}/{name}{n}.link")
            pairs.append((f"{out}/{name}{n}".encode(), f"{out}/{name}{n}.link".encode()))
    open(f"{out}/swapping", "w").close()
    rename, here, exchange = ctypes.CDLL(None).renameat2, -100, 2
    while True:
        for a, b in pairs:
            rename(here, a, here, b, exchange)
