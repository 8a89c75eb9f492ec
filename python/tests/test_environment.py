"""What of the caller's own Python an agent sees, and when that counts as changed."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Dict, List

import pytest

from cloveos import _environment as environment
from cloveos._sizes import to_bytes


def main_of(path: Path, name: Any = None) -> environment.MainModule:
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    module.__spec__ = types.SimpleNamespace(name=name) if name else None  # type: ignore[assignment]
    return environment.MainModule(module)


GUARDED = "def f():\n    pass\n\nif __name__ == '__main__':\n    def g():\n        pass\n    f()\n"


def test_which_main_modules_can_be_loaded_elsewhere(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(GUARDED)
    main = main_of(script)
    assert (main.load, main.path) == (str(script), str(script))
    assert main_of(script, "package.module").load == "package.module"
    names: Dict[str, Any] = {}
    exec(compile(GUARDED.replace("__name__ == '__main__'", "True"), str(script), "exec"), names)
    assert not main.defines_in_guard(names["f"])
    assert main.defines_in_guard(names["g"])
    script.write_text("print(1)\n")
    assert main_of(script).load is None
    assert "has no `if __name__" in main_of(script).reason
    assert "notebook" in environment.MainModule(types.ModuleType("__main__")).reason
    package = tmp_path / "__main__.py"
    package.write_text(GUARDED)
    assert main_of(package).load is None


def targets(mounts: List[Dict[str, Any]]) -> List[str]:
    return [m["target"] for m in mounts]


def test_the_scripts_folder_and_the_interpreter_are_mounted(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(GUARDED)
    mounts = environment.mounts(main_of(script), [])
    assert {"source": str(tmp_path), "target": str(tmp_path), "writable": False} in mounts
    for path in (sys.prefix, os.path.realpath(sys.base_prefix), environment.__file__, os.__file__):
        assert any(path == t or path.startswith(t + "/") for t in (*targets(mounts), "/usr")), path
    assert not any(m["writable"] for m in mounts)
    assert not any(t == "/usr" or t.startswith("/usr/") for t in targets(mounts))
    assert targets(mounts) == sorted(targets(mounts))


def test_wide_folders_are_never_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret").write_text("x")
    script = home / "script.py"
    script.write_text(GUARDED)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(sys, "path", [str(home), "", "/", *sys.path])
    monkeypatch.chdir(home)
    own = types.ModuleType("beside")
    own.__file__ = str(home / "beside.py")
    Path(own.__file__).write_text("")
    monkeypatch.setitem(sys.modules, "beside", own)
    mounts = environment.mounts(main_of(script), [])
    assert str(script) in targets(mounts)
    assert str(home / "beside.py") in targets(mounts)
    assert not {str(home), "/", "/tmp"} & set(targets(mounts))
    assert str(home / "secret") not in targets(mounts)
    assert environment.working_folder(mounts) is None


def test_an_environment_under_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "versions" / "3.11.9"
    (real / "bin").mkdir(parents=True)
    (real / "lib").mkdir()
    (real / "bin" / "python3").write_text("")
    (tmp_path / "versions" / "3.11").symlink_to(real)
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(tmp_path / "versions" / "3.11" / "bin" / "python3")
    monkeypatch.setattr(sys, "prefix", str(venv))
    monkeypatch.setattr(sys, "executable", str(venv / "bin" / "python"))
    script = tmp_path / "project" / "script.py"
    script.parent.mkdir()
    script.write_text(GUARDED)
    found = {m["target"]: m["source"] for m in environment.mounts(main_of(script), [])}
    assert found[str(venv)] == str(venv)
    assert found[str(tmp_path / "versions" / "3.11")] == str(real), "the name that the link goes over is there too"
    assert found[str(real)] == str(real)


def test_an_interpreter_in_a_folder_with_other_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """~/.local/bin/python3 may be a link that uv made, or an installation of its own; ~/.local/share is nobody's."""
    real = tmp_path / "versions" / "3.11.9"
    local = tmp_path / "home" / ".local"
    for folder in (real / "bin", real / "lib", local / "bin", local / "lib", local / "share"):
        folder.mkdir(parents=True)
    (real / "bin" / "python3").write_text("")
    link = local / "bin" / "python3"
    link.symlink_to(real / "bin" / "python3")
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text("")
    (venv / "bin" / "python").symlink_to(link)
    script = tmp_path / "project" / "script.py"
    script.parent.mkdir()
    script.write_text(GUARDED)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "prefix", str(venv))
    monkeypatch.setattr(sys, "executable", str(venv / "bin" / "python"))
    found = {m["target"]: m["source"] for m in environment.mounts(main_of(script), [])}
    assert found[str(link)] == str(link), "so that it can be a link inside"
    assert {str(real), str(venv)} <= set(found)
    monkeypatch.setattr(sys, "prefix", str(local))
    monkeypatch.setattr(sys, "executable", str(link))
    own = targets(environment.mounts(main_of(script), []))
    assert {str(link), str(local / "lib")} <= set(own)
    assert not [t for t in (*found, *own) if t == str(local) or t.startswith(str(local / "share"))]


def test_packages_that_are_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, cache = tmp_path / "site-packages", tmp_path / "cache"
    for folder in (site / "one-1.dist-info", cache / "a1" / "one-1.dist-info", cache / "a2" / "two", cache / "a3"):
        folder.mkdir(parents=True)
    (cache / "a1" / "one-1.dist-info" / "METADATA").write_text("")
    (site / "one-1.dist-info" / "METADATA").symlink_to(cache / "a1" / "one-1.dist-info" / "METADATA")
    (site / "two").symlink_to(cache / "a2" / "two")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "data").symlink_to(cache / "a3")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site), str(tmp_path / "src")])
    script = tmp_path / "project" / "script.py"
    script.parent.mkdir()
    script.write_text(GUARDED)
    found = targets(environment.mounts(main_of(script), []))
    assert {str(cache / "a1"), str(cache / "a2" / "two"), str(site), str(tmp_path / "src")} <= set(found)
    assert str(cache / "a3") not in found, "a link in a project's own folder may lead to anything"


def test_editable_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "checkout" / "mine"
    source.mkdir(parents=True)
    finder = types.ModuleType("__editable___mine_1_0_finder")
    finder.MAPPING = {"mine": str(source)}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, finder.__name__, finder)
    script = tmp_path / "script" / "s.py"
    script.parent.mkdir()
    script.write_text(GUARDED)
    assert str(source) in targets(environment.mounts(main_of(script), []))


def test_mounts_that_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    data = str(tmp_path / "data")
    assert environment.parse_mount("data:/d") == {"source": data, "target": "/d", "writable": False}
    assert environment.parse_mount((data, "/d/../e", "rw")) == {"source": data, "target": "/e", "writable": True}
    assert environment.parse_mount("data") == {"source": data, "target": data, "writable": False}
    wire = {"source": data, "target": "/d", "writable": True}
    assert environment.parse_mount(wire) == wire
    for bad, why in (
        ("nowhere:/d", "doesn't exist"),
        ("data:d", "absolute"),
        ("a:b:c:d", "SRC:DST"),
        ("data:/d:w", "SRC"),
    ):
        with pytest.raises(ValueError, match=why):
            environment.parse_mount(bad)


def test_the_digest_follows_the_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text(GUARDED)
    (tmp_path / "beside").mkdir()
    beside = tmp_path / "beside" / "part.py"
    beside.write_text("x = 1\n")
    main = main_of(script)
    seen = [environment.inputs_digest(main)]
    assert environment.inputs_digest(main) == seen[0]
    beside.write_text("x = 22\n")
    seen.append(environment.inputs_digest(main))
    script.write_text(GUARDED + "\n# more\n")
    seen.append(environment.inputs_digest(main))
    monkeypatch.setattr(sys, "path", [*sys.path, "/no/such/entry"])
    seen.append(environment.inputs_digest(main))
    (tmp_path / "data.csv").write_text("1")
    assert environment.inputs_digest(main) == seen[-1], "data isn't code"
    assert len(set(seen)) == 4


def test_what_is_loaded_before_the_fork() -> None:
    import tasks

    main = environment.MainModule(types.ModuleType("__main__"))
    assert environment.preload_for(tasks.add, main) == ["tasks"]
    notebook = types.FunctionType((lambda: 1).__code__, {"np": pytest, "os": os, "f": tasks.add, "n": 3})
    notebook.__module__ = "__main__"
    assert environment.preload_for(notebook, main) == ["pytest", "tasks"]
    assert environment.preload_for(len, main) == ["builtins"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [("512m", 512 << 20), ("2g", 2 << 30), ("1.5GiB", 3 << 29), ("4096", 4096), (4096, 4096), ("10kb", 10 << 10), (" 1T ", 1 << 40)],
)  # fmt: skip
def test_sizes(size: Any, expected: int) -> None:
    assert to_bytes("memory", size) == expected


@pytest.mark.parametrize("size", ["", "m", "512x", "-1", "1e3", 0, -4, True, None, "0", float("nan"), float("inf")])
def test_bad_sizes(size: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="memory"):
        to_bytes("memory", size)


def test_importing_the_package_loads_little() -> None:
    code = "import sys; before = set(sys.modules); import cloveos; print(sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(Path(environment.__file__).parents[1])},
    )  # fmt: skip
    assert "concurrent" not in done.stdout
    assert "dataclasses" not in done.stdout
