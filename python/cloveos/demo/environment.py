"""Makes, once, the virtual environment that the demo's experiments run in."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from . import dataset

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
DATASET_REQUIREMENT = HERE / "dataset_requirement.txt"
NEEDED_BYTES = 1_000_000_000
# A half-made environment has a name of this ending: an interrupted run leaves nothing believable.
PARTIAL = ".partial"

Say = Callable[[str], None]


class EnvironmentFailed(Exception):
    """The environment can't be made; the message says what failed, why, and what to do."""


class Environment(NamedTuple):
    """Where the finished environment's parts are."""

    root: Path
    python: Path
    wheel: Path
    features: Path


def cache_home() -> Path:
    """XDG's cache directory. Not CloveOS's data directory: nothing in that is ever shown to an agent."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "clove"


def demo_home() -> Path:
    """The demo's own folder, made with mode 0700 if it isn't there."""
    home = cache_home() / "demo"
    try:
        home.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        home.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise EnvironmentFailed(
            f"can't make the folder {home}: {error.strerror}. Name another one with XDG_CACHE_HOME=FOLDER."
        ) from error
    return home


def digest() -> str:
    """What the environment depends on: the pins, how features are made, the interpreter, the machine."""
    hashed = hashlib.sha256()
    for path in (REQUIREMENTS, DATASET_REQUIREMENT):
        hashed.update(path.read_bytes())
    hashed.update(f"ECFP {dataset.RADIUS} {dataset.BITS}".encode())
    hashed.update(f"{sys.version_info[:3]} {os.path.realpath(sys.executable)} {platform.machine()}".encode())
    return hashed.hexdigest()[:16]


def parts(root: Path) -> Environment:
    """The paths inside an environment at `root`."""
    share = root / "share" / "clove-demo"
    return Environment(root, root / "bin" / "python", share / "MoleculeACE.whl", share / "ecfp.npz")


def ensure(say: Say) -> Environment:
    """The finished environment, taken as it is if an earlier run made it."""
    home = demo_home()
    root = home / f"venv-{digest()}"
    if is_complete(root):
        return parts(root)
    refuse_unsupported()
    with only_one(home, say):
        if is_complete(root):
            return parts(root)
        for stale in home.glob(f"venv-*{PARTIAL}"):
            shutil.rmtree(stale, ignore_errors=True)
        partial = home / f"{root.name}{PARTIAL}"
        # Agents have other uids and must be able to read it; the folder above is 0700 and keeps others out.
        former = os.umask(0o022)
        try:
            build(partial, say)
            # An environment whose interpreter was upgraded away under it is in the way of the new one.
            shutil.rmtree(root, ignore_errors=True)
            partial.rename(root)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            os.umask(former)
    return parts(root)


def is_complete(root: Path) -> bool:
    """Whether everything is there; the rename at the end makes partial ones invisible."""
    return all(path.exists() for path in parts(root))


def refuse_unsupported() -> None:
    """Say at once what could only fail later, inside of pip."""
    if not (3, 9) <= sys.version_info[:2] <= (3, 14):
        raise EnvironmentFailed(
            f"the demo's pinned packages exist for Python 3.9 to 3.14, and {sys.executable} is "
            f"{platform.python_version()}. Put another python3 first on PATH."
        )
    libc = platform.libc_ver()[0]
    if platform.machine() not in ("x86_64", "aarch64") or libc != "glibc":
        raise EnvironmentFailed(
            "the demo's pinned packages exist for glibc Linux on x86_64 and aarch64, and this is "
            f"{libc or 'another C library'} on {platform.machine()}. "
            "`clove sweep run` works here with your own script."
        )


@contextlib.contextmanager
def only_one(home: Path, say: Say) -> Iterator[None]:
    """Hold the lock under which an environment is made; a second run waits for the first."""
    with open(home / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another demo is making the environment: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(root: Path, say: Say) -> None:
    """Make the environment at `root`: interpreter, packages, data, fingerprints."""
    free = shutil.disk_usage(root.parent).free
    if free < NEEDED_BYTES:
        raise EnvironmentFailed(
            f"the environment needs {NEEDED_BYTES // 10**6} MB, "
            f"and {root.parent} has {free // 10**6} MB free. "
            "Make room, or name another folder with XDG_CACHE_HOME=FOLDER."
        )
    made = parts(root)
    say("making the environment, once: about 60 s (downloads 120 MB from PyPI, takes 500 MB on disk)")
    started = time.monotonic()
    make_venv(root)
    install(made.python)
    say(f"  packages installed ({time.monotonic() - started:.0f} s)")
    made.wheel.parent.mkdir(parents=True)
    fetch_wheel(made.python, made.wheel)
    say("computing the fingerprints of 48,714 molecules, once: about 15 s")
    started = time.monotonic()
    run(
        [str(made.python), str(HERE / "dataset.py"), str(made.wheel), str(made.features)],
        "computing the fingerprints",
    )
    say(f"  fingerprints kept ({time.monotonic() - started:.0f} s)")


def make_venv(root: Path) -> None:
    """An empty virtual environment of the interpreter that runs us."""
    try:
        import ensurepip  # noqa: F401  (Debian packages venv without it)
    except ImportError as error:
        raise EnvironmentFailed(
            f"{sys.executable} can't make virtual environments: its module ensurepip is missing. "
            "On Debian or Ubuntu: sudo apt-get install python3-venv"
        ) from error
    run([sys.executable, "-m", "venv", str(root)], "making the virtual environment")


def install(python: Path) -> None:
    """The pinned packages, refused unless every hash fits."""
    run(
        [*pip(python), "install", "--require-hashes", "--only-binary", ":all:", "-r", str(REQUIREMENTS)],
        "installing the pinned packages",
    )


def fetch_wheel(python: Path, wheel: Path) -> None:
    """MoleculeACE's wheel, kept as a file: it is read, never installed."""
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        # Its metadata name PyTorch and others; --no-deps leaves them where they are.
        run(
            [
                *(*pip(python), "download", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
                *("-d", folder, "-r", str(DATASET_REQUIREMENT)),
            ],
            "downloading MoleculeACE",
        )
        (only,) = Path(folder).glob("*.whl")
        only.rename(wheel)


def pip(python: Path) -> list[str]:
    """The pip of an environment, which asks nothing and doesn't retry for minutes."""
    return [
        str(python),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "--quiet",
        "--retries",
        "2",
    ]


def run(command: list[str], doing: str) -> None:
    """Run one stage; its failure becomes a sentence."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    environment["PIP_USER"] = "0"
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise EnvironmentFailed(f"{doing} failed: {command[0]}: {error.strerror}.") from error
    if done.returncode != 0:
        raise EnvironmentFailed(explain(doing, done.stderr + done.stdout, done.returncode))


def explain(doing: str, output: str, status: int) -> str:
    """A sentence out of what pip, or another stage, left on its way down."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    last = (errors or lines or [f"exit status {status}"])[-1]
    low = output.lower()
    if "do not match the hashes" in low:
        why = "a downloaded package isn't the one that was pinned (its hash differs)"
        remedy = "Don't use it; try again without a mirror or proxy in between (`pip config list` shows them)."
    elif any(
        sign in low
        for sign in (
            "from versions: none",
            "newconnectionerror",
            "name resolution",
            "unreachable",
            "proxyerror",
            "timed out",
        )
    ):
        why = "the Python package index can't be reached"
        remedy = "Connect this machine, or name a mirror with PIP_INDEX_URL=URL, and run the demo again."
    elif "no space left" in low:
        why = "the disk is full"
        remedy = "Make room, or name another folder with XDG_CACHE_HOME=FOLDER."
    else:
        why = last
        remedy = "Run the demo again; what was half made has been removed."
        return f"{doing} failed: {why}\n{remedy}"
    return f"{doing} failed: {why}.\n{remedy}\nThe last words were: {last}"
