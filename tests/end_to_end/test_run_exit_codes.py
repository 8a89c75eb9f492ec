"""`clove run` ends as its program ends; where CloveOS ended it, the last line says why."""

from __future__ import annotations

import pytest
from house import House

EAT = "x = []\nwhile True: x.append(bytearray(1 << 20))"


@pytest.mark.parametrize("code", [0, 1, 3, 42, 255])
def test_the_programs_own_code_comes_through_without_a_word(house: House, code: int) -> None:
    ended = house.clove("run", "--", "sh", "-c", f"echo out; echo err >&2; exit {code}")
    assert str(ended) == f"out\n--- stderr\nerr\n--- exit {code}\n"


def test_each_end_has_its_code_and_its_last_line(house: House) -> None:
    cases = [
        (["--timeout", "300ms", "--", "sleep", "60"], 124, "clove: timeout: "),
        (["-m", "64m", "--", "python3", "-c", EAT], 137, "clove: oom: "),
        (["--", "sh", "-c", "kill -SEGV $$"], 139, "clove: signal: "),
        (["--", "sh", "-c", "kill -ABRT $$"], 134, "clove: signal: "),
        (["--", "python3", "-c", "import ctypes; ctypes.string_at(0)"], 139, "clove: signal: "),
        (["--", "no-such-program"], 127, "clove: "),
        (["--", "/no/such/program"], 127, "clove: "),
        (["--", "/etc/passwd"], 126, "clove: "),
        (["-v", "/no/such/folder:/x", "--", "true"], 125, "clove: "),
        (["-v", "/:/x", "--", "true"], 125, "clove: "),
    ]
    for args, code, last in cases:
        ended = house.clove("run", *args)
        told = [line for line in ended.err.splitlines() if line.startswith("clove: ")]
        assert ended.code == code and told and told[0].startswith(last), f"{args}\n{ended}"
        if code in (124, 137, 139, 134):
            assert ended.last_words == told[-1], f"the cause isn't the last line\n{ended}"


def test_sigkill_from_inside_is_not_called_oom(house: House) -> None:
    ended = house.clove("run", "--", "sh", "-c", "kill -9 $$")
    assert ended.code == 137 and "oom" not in ended.err, f"\n{ended}"
    # The positive control: the same code with the other cause.
    ended = house.clove("run", "-m", "64m", "--", "python3", "-c", EAT)
    assert ended.code == 137 and ended.last_words.startswith("clove: oom: "), f"\n{ended}"


def test_json_names_the_cause(house: House) -> None:
    for args, cause, code in [
        (["--", "true"], "exit", 0),
        (["--", "sh", "-c", "exit 3"], "exit", 3),
        (["--timeout", "300ms", "--", "sleep", "60"], "timeout", 124),
        (["-m", "64m", "--", "python3", "-c", EAT], "oom", 137),
        (["--", "sh", "-c", "kill -SEGV $$"], "signal", 139),
    ]:
        ended = house.clove("run", "--json", *args)
        end = ended.json()
        assert (ended.code, end["cause"]) == (code, cause), f"{args}\n{ended}"
        assert end["id"] and end["code"] == code and end["certificate"]["cause"] == cause, end


def test_ending_with_a_handled_signal_is_the_programs_own_business(house: House) -> None:
    script = 'trap "echo caught; exit 5" TERM; kill -TERM $$; sleep 60'
    assert str(house.clove("run", "--", "sh", "-c", script)) == "caught\n--- stderr\n--- exit 5\n"


def test_what_a_program_leaves_running_ends_with_it(house: House) -> None:
    ended = house.clove(
        "run", "--", "sh", "-c", "sleep 1000 & setsid sleep 1000 >/dev/null 2>&1 & echo done", patience=20
    )
    assert ended.out == "done\n" and ended.code == 0, f"\n{ended}"
    assert house.agent_pids() == []
