"""A hostile script finds nothing of the host; the same probe, run outside, finds everything it looks for."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Dict, Iterator, List

import pytest
from house import House

PROBE = Path(__file__).parent / "hostile" / "probe.py"


@pytest.fixture
def prey(house: House) -> Iterator[List[str]]:
    """A secret file, a listening port, an abstract socket and a process: all that the probe looks for."""
    private = house.folder / "private"
    private.mkdir()
    secret = private / "secret"
    secret.write_text("top secret")
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0clove-probe-{port}")
    abstract.listen()
    victim = subprocess.Popen(["sleep", "1000"])
    threading.Thread(target=lambda: [c.close() for c in iter(lambda: _accept(server), None)], daemon=True).start()
    yield [str(secret), str(port), str(victim.pid), str(private)]
    server.close()
    abstract.close()
    victim.kill()
    victim.wait()


def _accept(server: socket.socket):
    try:
        return server.accept()[0]
    except OSError:
        return None


def outside(house: House, prey: List[str]) -> Dict[str, bool]:
    house.clove("run", "--", "true").ok()
    env = {**house.env, "PROBE_SECRET": "x"}
    with open(house.home / "lock") as lock:
        done = subprocess.run(
            [sys.executable, str(PROBE), *prey],
            check=False,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            pass_fds=[lock.fileno()],
        )
    return json.loads(done.stdout)


#: Not found outside either, on hosts that lack them or forbid them to everybody.
UNSURE = {
    "file by way of init",
    "keyring",
    "bpf",
    "perf",
    "devices",
    "user namespace",
    "mount",
    "interfaces",
    "many processes",
}


def judge(house: House, prey: List[str], inside: Dict[str, bool]) -> None:
    found = sorted(k for k, v in inside.items() if v)
    assert found == [], f"a hostile script got at: {', '.join(found)}"
    control = outside(house, prey)
    missing = sorted(k for k, v in control.items() if not v and k not in UNSURE)
    assert missing == [] or os.getuid() != 0, f"the probe proves nothing about: {', '.join(missing)}"
    assert len(inside) == len(control) > 25


def test_a_cold_agent(house: House, prey: List[str]) -> None:
    ended = house.clove(
        "run", "-v", f"{PROBE}:/probe.py", "--", "python3", "/probe.py", *prey, env={"PROBE_SECRET": "x"}
    )
    judge(house, prey, ended.ok().json())


def test_a_task_of_a_sweep(house: House, prey: List[str]) -> None:
    source = PROBE.read_text().replace("print(json.dumps(found))", "")
    house.write(
        "s.py",
        "def run(config, shared):\n    import sys\n    sys.argv = [''] + config['prey'].split()\n    g = {}\n    exec(open('body.py').read(), g)\n    return g['found']\n",
    )
    house.write("body.py", source)
    (house.work / "l.jsonl").write_text(json.dumps({"prey": " ".join(prey)}) + "\n")
    house.clove("sweep", "run", "s.py", "--list", "l.jsonl", env={"PROBE_SECRET": "x"}).ok()
    judge(house, prey, house.results()[0]["result"])


def test_agents_do_not_see_each_other(house: House) -> None:
    house.clove("run", "-d", "--name", "a", "--", "sh", "-c", "echo mine > /tmp/mine; exec sleep 1000 # marker").ok()
    house.running("a")
    seen = house.clove("run", "--", "sh", "-c", "cat /tmp/mine; cat /proc/*/cmdline | tr '\\0' ' '")
    assert "mine\n" not in seen.out and "1000" not in seen.out, f"\n{seen}"


def test_a_hostile_name_does_not_drive_the_terminal(house: House) -> None:
    house.clove("run", "--", "sh", "-c", "printf '\\033[2J\\033]0;owned\\007' >&2; kill -SEGV $$")
    for args in (["ps", "-a"], ["inspect", "sh-1"], ["ps", "-a", "--json"]):
        assert "\x1b" not in house.clove(*args).out, args


def test_an_agent_cannot_stop_the_kernel_or_kill_others(house: House) -> None:
    house.clove("run", "-d", "--name", "other", "--", "sleep", "1000").ok()
    bin_folder = str(Path(house.clove_bin).parent)
    for args in (["kill", "other"], ["stop", "--force"], ["ps"]):
        ended = house.clove("run", "-v", f"{bin_folder}:/b", "-e", "HOME=/work", "--", "/b/clove", *args)
        assert "other" not in ended.out and house.running("other"), f"{args}\n{ended}"
    assert house.clove("run", "--", "true").code == 0
