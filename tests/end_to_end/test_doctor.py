"""`clove doctor` tells the truth about this host."""

from __future__ import annotations

from deadline import until
from house import House


def test_what_doctor_says_is_enforced(house: House) -> None:
    ended = house.clove("doctor", "--json")
    checks = {c["id"]: c for c in ended.json()}
    print(checks)
    assert ended.code == 0, f"\n{ended}"
    assert all(isinstance(c["enforced"], bool) for c in checks.values())
    missing = [c for c in checks.values() if not c["enforced"]]
    assert all(c.get("remedy") for c in missing), missing
    text = house.clove("doctor")
    assert text.code == 0 and len(text.out.splitlines()) >= len(checks), f"\n{text}"


def test_nothing_is_left_behind(house: House) -> None:
    house.clove("doctor").ok()
    until(lambda: not house.kernel_pids(), "the end of the kernel")
