"""The time of day jumps while things run: deadlines hold, durations are right, and nothing is ever negative."""

from __future__ import annotations

import time

from bad_host import BadHost
from deadline import until
from house import House, finish

YEAR = 365 * 86_400
SCRIPT = """
    import os, signal, time
    def run(config, shared):
        if config["what"] == "crash" and os.environ["CLOVE_ATTEMPT"] == "1": os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60 if config["what"] == "hang" else 0.5)
        return 1
"""


def test_nothing_is_measured_by_a_clock_that_somebody_sets(house: House) -> None:
    host = BadHost(house, "--idle-timeout", "2s")
    house.write("mixed.py", SCRIPT)
    began = time.monotonic()
    sweep = house.start(
        "sweep", "run", "mixed.py", "--grid", "what=well,crash,hang", "-j", "3", "--memory", "100m", "--timeout", "1500ms",
        "--retry-deaths", "1",
    )  # fmt: skip
    until(lambda: house.json("ps"), "the first")
    for years in (10, -10, 40, -56):
        host.set_clock(years * YEAR)
        time.sleep(0.2)
    ended = finish(sweep)
    took = (time.monotonic() - began) * 1000
    assert ended.code == 1 and " 2 of 3 done, 1 given up in " in ended.out, f"\n{ended}"
    shown = house.shown()
    assert 3000 <= shown["ended_ms"] - shown["submitted_ms"] <= took + 100, shown
    for task in house.results().values():
        for c in task["certificates"]:
            assert 0 <= c["ended_ms"] - c["started_ms"] <= took, c
            if c["cause"] == "timeout":
                assert c["ended_ms"] - c["started_ms"] >= 1500, c
                assert "its timeout of 1.5 s" in c["message"]
    # A deadline that begins on a wrong clock.
    assert house.clove("run", "--timeout", "300ms", "--", "sleep", "60").code == 124
    # When nothing runs, the kernel's clock follows the host's.
    host.set_clock(-2 * YEAR)
    until(
        lambda: house.clove("run", "--", "true").code == 0 and kernel_year(house) == time.gmtime().tm_year - 2,
        "the host's time",
    )
    host.set_clock(20 * YEAR)
    assert house.clove("kernel", "check").ok().out.endswith("\nequal\n")
    # Idle by its own count: neither at once nor never.
    began = time.monotonic()
    assert host.ended() == 0
    assert 1 <= time.monotonic() - began < 30
    # The next kernel's clock says that all of this lies in the future.
    assert house.shown()["state"] == "finished"
    assert house.clove("run", "--", "echo", "on").ok().out == "on\n"


def kernel_year(house: House) -> int:
    newest = max(house.json("ps", "-a"), key=lambda a: int(a["id"][1:].split(".")[0]))
    return time.gmtime(newest["started_ms"] / 1000).tm_year
