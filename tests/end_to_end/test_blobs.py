"""Blobs belong to the agent that stored them, count against its disk, and don't outlive their use."""

from __future__ import annotations

import sys
from typing import Tuple

from deadline import until
from house import ROOT, House

SDK = str(ROOT / "python")
sys.path.insert(0, SDK)

from cloveos import Client  # noqa: E402

# Run inside a cold agent: its own socket is where CLOVE_SOCKET says.
STORE = "from cloveos import Client; print(Client().call('blob.put', {}, bytes(%d))[0]['digest'])"
READ = "from cloveos import Client; print(len(Client().call('blob.get', {'digest': '%s'})[1]))"


def inside(house: House, code: str, *flags: str) -> Tuple[int, str]:
    """Runs Python code in an agent that finds the library."""
    sdk = ("-v", f"{SDK}:/opt/sdk", "-e", "PYTHONPATH=/opt/sdk")
    ended = house.clove("run", *flags, *sdk, "--", sys.executable, "-c", code)
    return ended.code, ended.out + ended.err


def test_an_agent_reads_its_own_blobs_and_nobody_elses(house: House) -> None:
    own = "from cloveos import Client\nc = Client()\nd = c.call('blob.put', {}, b'mine')[0]['digest']\nprint(c.call('blob.get', {'digest': d})[1], d)"
    code, said = inside(house, own)
    assert code == 0, said
    assert "b'mine'" in said
    digest = said.split()[-1]
    code, said = inside(house, READ % digest)
    assert code != 0, said
    assert "E0301" in said, said
    # Whether it exists isn't told either.
    for wanted in (digest, "0" * 64):
        code, said = inside(house, READ.replace("blob.get", "blob.stat") % wanted)
        assert "E0301" in said, said


def test_blobs_count_against_the_disk_limit(house: House) -> None:
    code, said = inside(house, STORE % (3 << 20), "--disk", "2m")
    assert code != 0, said
    assert "E0502" in said, said
    # The positive control: the same within a larger limit.
    code, said = inside(house, STORE % (3 << 20), "--disk", "8m")
    assert code == 0, said
    twice = f"from cloveos import Client\nc = Client()\nfor _ in range(3): c.call('blob.put', {{}}, bytes({3 << 20}))"
    code, said = inside(house, twice, "--disk", "8m")
    assert "E0502" in said, said


def test_blobs_are_cleared_away_when_nobody_can_need_them(house: House) -> None:
    client = Client(house.clove("kernel", "socket", "--start").ok().out.strip())
    digest = client.call("blob.put", {}, b"kept while somebody is connected")[0]["digest"]
    stored = house.data_dir / "blobs" / digest[:2] / digest
    assert stored.is_file()
    assert client.call("blob.get", {"digest": digest})[1] == b"kept while somebody is connected"
    client.close()
    until(lambda: not stored.exists(), "the blob to be cleared away")
