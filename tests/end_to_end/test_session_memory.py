"""What an executor session's results take up in the kernel goes away as they are collected, and with the session."""

from __future__ import annotations

import sys

from house import ROOT, House

PROGRAM = """
import sys
sys.path.insert(0, SDK)
from cloveos import Executor

def large(n):
    return bytes([n % 251]) * (4 << 20)

def rss(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) >> 10

if __name__ == "__main__":
    pid = int(sys.argv[1])
    with Executor(max_workers=2, memory="256m") as executor:
        assert executor.submit(large, 1).result()[0] == 1
        before = rss(pid)
        for n in range(100):
            assert len(executor.submit(large, n).result()) == 4 << 20
        print(rss(pid) - before)
"""


def test_collected_results_are_not_kept(house: House) -> None:
    program = house.write("large.py", PROGRAM.replace("SDK", repr(str(ROOT / "python")), 1))
    house.clove("kernel", "socket", "--start").ok()
    pid = str(house.json("kernel", "info")["pid"])
    env = {"CLOVE_BIN": house.clove_bin}
    grown = int(house.any([sys.executable, str(program), pid], env=env, patience=180).ok().out)
    # 100 results of 4 MiB came and went.
    assert grown < 120, f"{grown} MiB of results were kept"
