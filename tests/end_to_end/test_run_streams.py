"""Standard streams of `clove run` work as a plain program's do."""

from __future__ import annotations

import subprocess

from deadline import until
from house import House, finish


def test_command_substitution_returns_when_the_program_does(house: House) -> None:
    # The first command starts the kernel in the background: it must not hold the pipe.
    ended = house.shell(
        'x=$("$CLOVE" run -- echo hello); echo "[$x]"; y=$("$CLOVE" run -- echo again 2>&1); echo "[$y]"', 20
    )
    assert str(ended) == "[hello]\n[again]\n--- stderr\n--- exit 0\n"


def test_the_background_kernel_holds_no_pipe_of_its_caller(house: House) -> None:
    # communicate() returns only at the end of both streams.
    assert finish(house.start("run", "--", "true"), patience=20).code == 0
    for pid in house.kernel_pids():
        import os

        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in ("0", "1", "2")]
        assert all("pipe:" not in link for link in links), links
        assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_piped_input_is_handed_on(house: House) -> None:
    text = "".join(f"line {i}\n" for i in range(20_000))
    for flags in (["-i"], []):
        ended = house.clove("run", *flags, "--", "cat", stdin=text)
        assert (ended.code, ended.err) == (0, "") and ended.out == text
    assert house.clove("run", "-i", "--", "wc", "-l", stdin="a\nb\n").out.strip() == "2"
    # No input: the program sees its end at once.
    assert house.clove("run", "--", "cat").out == ""


def test_binary_input_and_output_come_through_unchanged(house: House) -> None:
    data = bytes(range(256)) * 4096
    ended = subprocess.run(
        [house.clove_bin, "run", "-i", "--", "cat"],
        check=False,
        input=data,
        capture_output=True,
        env=house.env,
        timeout=60,
    )
    assert ended.stdout == data and ended.returncode == 0, ended.stderr


def test_a_conversation_over_pipes_is_not_buffered(house: House) -> None:
    child = house.start("run", "-i", "--", "cat", stdin=subprocess.PIPE, bufsize=1)
    assert child.stdin and child.stdout
    for word in ("one", "two", "three"):
        child.stdin.write(word + "\n")
        child.stdin.flush()
        assert child.stdout.readline() == word + "\n"
    child.stdin.close()
    assert child.wait(timeout=30) == 0


def test_a_reader_that_leaves_does_not_hang_the_writer(house: House) -> None:
    ended = house.shell('"$CLOVE" run -- sh -c "yes" | head -n 1', 30)
    assert ended.out == "y\n", f"\n{ended}"
    until(lambda: not house.agent_pids(), "the end of yes")


def test_much_output_arrives_whole(house: House) -> None:
    ended = house.clove("run", "--", "sh", "-c", "seq 1 300000")
    assert ended.code == 0 and ended.out.splitlines()[-1] == "300000" and len(ended.out.splitlines()) == 300_000


def test_json_keeps_standard_output_for_the_certificate(house: House) -> None:
    ended = house.clove("run", "--json", "--", "sh", "-c", "echo to-stdout; echo to-stderr >&2")
    assert ended.json()["code"] == 0
    assert "to-stdout" in ended.err and "to-stderr" in ended.err
