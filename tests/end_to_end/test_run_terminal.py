"""`clove run -t` gives a terminal; without one no escape byte is printed."""

from __future__ import annotations

from house import House


def test_a_terminal_of_its_own(house: House) -> None:
    t = house.terminal(
        "run",
        "-it",
        "--",
        "sh",
        "-c",
        "test -t 0 && test -t 1 && test -t 2 && echo is-a-tty; stty size; read x; echo got:$x",
    )
    t.expect("is-a-tty")
    t.type("typed\n")
    t.expect("got:typed")
    assert t.wait() == 0, t.seen


def test_ctrl_c_goes_to_the_program(house: House) -> None:
    t = house.terminal(
        "run",
        "-it",
        "--",
        "python3",
        "-u",
        "-c",
        "import time\ntry:\n print('rea'+'dy'); time.sleep(1000)\nexcept KeyboardInterrupt:\n print('inter'+'rupted'); raise SystemExit(9)",
    )
    t.expect("ready")
    t.type(b"\x03")
    t.expect("interrupted")
    assert t.wait() == 9, t.seen


def test_an_interactive_shell(house: House) -> None:
    t = house.terminal("run", "-it", "--", "bash", "--norc")
    t.type("echo $((6*7)); tty; exit 4\n")
    t.expect("42")
    assert t.wait() == 4, t.seen
    assert b"/dev/pts/" in t.seen and b"no job control" not in t.seen, t.seen


def test_without_t_it_is_no_terminal_even_on_one(house: House) -> None:
    t = house.terminal("run", "--", "sh", "-c", "test -t 1 || echo no-tty")
    t.expect("no-tty")
    assert t.wait() == 0


def test_no_escape_bytes_where_none_are_wanted(house: House) -> None:
    house.write("t.py", "def run(config, shared):\n    return config['a']\n")
    commands = [
        ("run", "--", "sh", "-c", "kill -SEGV $$"),
        ("run", "--", "no-such-program"),
        ("sweep", "run", "t.py", "--grid", "a=1,2"),
        ("sweep", "run", "nothing.toml"),
        ("ps", "-a"), ("sweep", "ls"), ("sweep", "show"), ("doctor",), ("--help",), ("explain", "E0201"),
    ]  # fmt: skip
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        for args in commands:
            t = house.terminal(*args, env=env)
            t.wait()
            assert b"\x1b" not in t.seen, (env, args, t.seen)
    # The positive control: on an ordinary terminal the bar moves.
    t = house.terminal("sweep", "run", "t.py", "--grid", "a=1,2")
    t.wait()
    assert b"\x1b" in t.seen, t.seen


def test_without_a_terminal_there_are_no_escape_bytes(house: House) -> None:
    house.write("t.py", "def run(config, shared):\n    return config['a']\n")
    for args in [("sweep", "run", "t.py", "--grid", "a=1,2"), ("ps", "-a"), ("doctor",), ("run", "--", "no-such")]:
        ended = house.clove(*args, env={"TERM": "xterm-256color"})
        assert "\x1b" not in str(ended), f"{args}\n{ended}"
