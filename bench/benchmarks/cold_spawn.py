"""A static program that ends at once, in the whole sandbox, beside other sandboxes that do the same."""

from __future__ import annotations

import subprocess

from bench import Bench
from figures import Figure, Row, at_most, percentile
from peers import INSIDE, available, bwrap, oci, surroundings
from places import environment

TITLE = "cold spawn of a static binary"
MS = 1e6


def run(bench: Bench) -> list[Row]:
    """All of them one after the other, hundreds of times; then the medians of some rounds of that."""
    programs = bench.places.programs
    argv = [f"{INSIDE}/static_true"]
    limits = {"memory_bytes": 256 << 20, "pids": 64, "disk_bytes": 64 << 20, "nofile": 256, "wall_ms": 60_000}
    mounts = [{"source": str(programs), "target": INSIDE, "writable": False}]
    skipped: dict[str, str] = {name: "not installed" for name in ("bwrap", "crun", "runc") if name not in available()}
    found = []
    with bench.home() as home:
        peers = {}
        for name in available():
            command = bwrap(programs, argv) if name == "bwrap" else oci(name, home.folder / name, programs, argv)
            tried = subprocess.run(
                [*surroundings(), *command],
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if tried.returncode == 0:
                peers[name] = command
            else:
                skipped[name] = f"it can't do this here: {tried.stderr.strip()[-200:]}"
        orders = {
            "program": argv[0], "limits": limits, "mounts": mounts, "rounds": bench.size(200, 5),
            "warm_up": bench.size(10, 1), "peers": {"plain fork and exec": [str(programs / "static_true")], **peers},
        }  # fmt: skip
        for round_ in range(bench.rounds):
            bench.say(f"round {round_ + 1} of {bench.rounds}")
            found.append(home.rust({"spawn": orders}, surroundings()))

    def ours(name: str, percent: float) -> Figure:
        return Figure.of([percentile(once[name], percent) / MS for once in found])

    def peer(name: str, percent: float) -> Figure:
        return Figure.of([percentile(once["peers"][name], percent) / MS for once in found])

    what = "from the call to the certificate, p50"
    note = "the peer from fork to reaped; the same folders and namespaces, no capabilities, but no seccomp filter"
    rows = []
    if "bwrap" in peers:
        rows.append(Row(what, "ms", ours("ours", 50), peer("bwrap", 50), "bwrap --unshare-all", at_most(0.5),
                        at_most(0.4), "ratio", note))  # fmt: skip
    else:
        rows.append(Row(what, "ms", ours("ours", 50), None, "bwrap", at_most(0.5), at_most(0.4), "ratio",
                        f"bwrap: {skipped['bwrap']}"))  # fmt: skip
    for name in ("crun", "runc"):
        if name in peers:
            rows.append(Row(what, "ms", ours("ours", 50), peer(name, 50), name))
        else:
            rows.append(Row(f"beside {name}", "ms", note=skipped[name]))
    return [
        *rows,
        Row(what, "ms", ours("ours", 50), peer("plain fork and exec", 50), "plain fork and exec"),
        Row("from the call to the certificate, p99", "ms", ours("ours", 99),
            *((peer("bwrap", 99), "bwrap --unshare-all") if "bwrap" in peers else ())),
        Row("from the call until it runs, p50", "ms", ours("started", 50)),
        Row("from the call until it runs, p99", "ms", ours("started", 99)),
    ]  # fmt: skip
