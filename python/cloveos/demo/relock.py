"""Writes requirements.txt, with the hashes of the Linux wheels only, from requirements.in."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEADER = """\
# Made by `python3 relock.py` from requirements.in: change that file, not this one.
# CPython 3.9 to 3.14 on glibc Linux, x86_64 and aarch64; wheels only, nothing is compiled.
"""
# Free-threaded builds (cp313t) and PyPy (pp310) resolve to other wheels and were not tried.
WHEEL = re.compile(r"-(?:cp3(?:9|1[0-4])-cp3(?:9|1[0-4])-[^/]*manylinux[^/]*(?:x86_64|aarch64)|py3-none-any)\.whl$")


def pins() -> list[str]:
    """The requirement lines of requirements.in, without comments."""
    lines = (HERE / "requirements.in").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def lock(requirements: list[str]) -> str:
    """The text of the uv.lock that uv resolves for these requirements."""
    with tempfile.TemporaryDirectory() as folder:
        quoted = ",\n".join(f"  '{line}'" for line in requirements)
        (Path(folder) / "pyproject.toml").write_text(
            '[project]\nname = "lock"\nversion = "0"\nrequires-python = ">=3.9,<3.15"\n'
            f"dependencies = [\n{quoted}\n]\n[tool.uv]\nenvironments = [\"sys_platform == 'linux'\"]\n"
        )
        subprocess.run(["uv", "lock", "--project", folder], check=True, stdout=sys.stderr)
        return (Path(folder) / "uv.lock").read_text()


def wheel_hashes(locked: str) -> dict[str, list[str]]:
    """`name==version` to the sorted sha256 digests of its Linux wheels."""
    found: dict[str, list[str]] = {}
    for block in locked.split("[[package]]")[1:]:
        name = re.search(r'^name = "(.+)"$', block, re.M)
        version = re.search(r'^version = "(.+)"$', block, re.M)
        if name is None or version is None:
            continue
        wheels = re.findall(r'url = "([^"]+)", hash = "(sha256:[0-9a-f]{64})"', block)
        digests = [digest for url, digest in wheels if WHEEL.search(url)]
        found[f"{name.group(1)}=={version.group(1)}"] = sorted(set(digests))
    return found


def main() -> None:
    """Resolve, filter, write."""
    requirements = pins()
    hashes = wheel_hashes(lock(requirements))
    out = [HEADER]
    for line in requirements:
        digests = hashes[line.split(";")[0].strip()]
        if not digests:
            raise SystemExit(f"{line}: no wheel for glibc Linux on this package's page; pick another version")
        out.append(" \\\n    ".join([line, *(f"--hash={digest}" for digest in digests)]) + "\n")
    (HERE / "requirements.txt").write_text("".join(out))


if __name__ == "__main__":
    main()
