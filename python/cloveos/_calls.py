"""The numbers of the syscalls, made from the kernel's one table by `cargo run -p xtask -- gen`."""

from __future__ import annotations

from typing import Dict

NUMBERS: Dict[str, int] = {
    "kernel.hello": 0x0101,
    "kernel.info": 0x0102,
    "kernel.ping": 0x0103,
    "kernel.shutdown": 0x0104,
    "proc.spawn": 0x0201,
    "proc.wait": 0x0202,
    "proc.kill": 0x0203,
    "proc.list": 0x0204,
    "proc.inspect": 0x0205,
    "proc.logs": 0x0206,
    "proc.stdin": 0x0207,
    "proc.resize": 0x0208,
    "task.next": 0x0301,
    "task.done": 0x0302,
    "run.submit": 0x0401,
    "run.push": 0x0402,
    "run.close": 0x0403,
    "run.list": 0x0404,
    "run.show": 0x0405,
    "run.tasks": 0x0406,
    "run.watch": 0x0407,
    "run.collect": 0x0408,
    "run.cancel": 0x0409,
    "run.resume": 0x040A,
    "run.artifacts": 0x040B,
    "template.list": 0x0501,
    "blob.put": 0x0601,
    "blob.get": 0x0602,
    "blob.stat": 0x0603,
}
