"""Runs a command for which fdatasync(2) does nothing and says that it did (`lies`), or takes a quarter of a second (`slow`).

A seccomp filter stands between the program and Linux, so the very program that is tested gets such a disk, without a line
of it being changed; all that it starts inherits it. `lies` is the negative control of the power-loss test: the filter
answers with 0 by itself (SECCOMP_RET_ERRNO with errno 0, seccomp(2)). With `slow`, whatever is shown before it is durable
is shown long before, and so is lost for certain: the filter asks this process, which lets each call go on after a while
(SECCOMP_RET_USER_NOTIF, seccomp_unotify(2)).

Usage: strange_disk.py lies|slow COMMAND...
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
import time

SLOW_S = 0.25
FDATASYNC, SECCOMP = 75, 317  # x86-64
SET_MODE_FILTER, NEW_LISTENER = 1, 1 << 3
LOAD_NUMBER, IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h: LD|W|ABS, JMP|JEQ|K, RET|K
ALLOW, SAY_ZERO, ASK = 0x7FFF0000, 0x00050000, 0x7FC00000  # SECCOMP_RET_ALLOW, _ERRNO | 0, _USER_NOTIF
NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101  # _IOWR('!', 0, struct seccomp_notif), (1, seccomp_notif_resp)
GO_ON = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))


def install(action: int, flags: int) -> int:
    """The filter, for this process and all that come of it; a descriptor when it asks."""
    steps = b"".join(
        struct.pack("HBBI", *step)
        for step in [
            (LOAD_NUMBER, 0, 0, 0),  # struct seccomp_data begins with the call's number
            (IF_EQUAL, 0, 1, FDATASYNC),
            (RETURN, 0, 0, action),
            (RETURN, 0, 0, ALLOW),
        ]
    )
    kept = ctypes.create_string_buffer(steps, len(steps))
    program = Program(len(steps) // 8, ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    # Root needs no no_new_privs for this; with it, the command would differ from the real one in more than one call.
    done: int = libc.syscall(SECCOMP, SET_MODE_FILTER, flags, ctypes.byref(program))
    if done < 0:
        sys.exit(f"the filter can't be installed: {os.strerror(ctypes.get_errno())}")
    return done


def delay(listener: int) -> None:
    """Lets each call go on after a while, for as long as somebody may make one."""
    while True:
        asked = bytearray(80)
        try:
            fcntl.ioctl(listener, NOTIF_RECV, asked)
            (number,) = struct.unpack_from("Q", asked)
            time.sleep(SLOW_S)
            fcntl.ioctl(listener, NOTIF_SEND, bytearray(struct.pack("QqiI", number, 0, 0, GO_ON)))
        except FileNotFoundError:
            # Whoever asked has ended meanwhile.
            continue


def main() -> None:
    kind, command = sys.argv[1], sys.argv[2:]
    if kind == "lies":
        install(SAY_ZERO, 0)
        os.execv(command[0], command)
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        # It stays when the command has ended, as a kernel that the command started does.
        os.setsid()
        ours.close()
        null = os.open("/dev/null", os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
        delay(fds[0])
    listener = install(ASK, NEW_LISTENER)
    socket.send_fds(ours, [b"."], [listener])
    os.close(listener)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
