"""Conda packages made of what PyPI has, and environments that rattler makes of them.

Real: the format (`.conda`, its index.json, paths.json and link.json) and the installer. rattler is the library by which
pixi makes environments; it unpacks packages into a cache, links them into the prefix by hard links, writes the prefix
into the files that hold a placeholder, makes the commands of noarch packages, and keeps records in conda-meta. Not
real: neither conda nor micromamba themselves run, and nothing is from conda-forge, as PyPI has none of that.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

#: What stands for the prefix in packages; rattler replaces it in text files.
PLACEHOLDER = b"/opt/placeholder_placeholder_placeholder_placeholder"
SITE_PACKAGES = "lib/python3.10/site-packages"

#: Content, permissions, and where it leads when it is a link.
File = Tuple[bytes, int, str]


def tree(root: Path) -> Dict[str, File]:
    """Files and links below a folder."""
    out: Dict[str, File] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            out[name] = (b"", 0o777, os.readlink(path))
        elif path.is_file():
            out[name] = (path.read_bytes(), path.stat().st_mode & 0o777, "")
    return out


def of_wheel(wheel: Path, below: str) -> Dict[str, File]:
    """What a wheel holds, without its tests, in a folder."""
    with zipfile.ZipFile(wheel) as z:
        names = [n for n in z.namelist() if not n.endswith("/") and "/tests/" not in n]
        return {f"{below}/{name}": (z.read(name), 0o644, "") for name in names}


class Channel:
    """A folder of packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._packages: List[Tuple[Path, Dict[str, Any]]] = []

    def add(
        self, name: str, version: str, files: Dict[str, File], depends: Sequence[str] = (), command: str = ""
    ) -> None:
        """Makes a package; one with a `command` (`NAME = MODULE:FUNCTION`) is pure Python, and noarch."""
        noarch = {"noarch": "python"} if command else {}
        build, subdir = "0", "noarch" if noarch else "linux-64"
        index = {
            "name": name, "version": version, "build": build, "build_number": 0, "depends": list(depends),
            "subdir": subdir, **noarch,
        }  # fmt: skip
        info: Dict[str, Any] = {
            "info/index.json": index,
            "info/paths.json": {"paths_version": 1, "paths": [_path(n, f) for n, f in sorted(files.items())]},
        }
        if command:
            python = {"type": "python", "entry_points": [command]}
            info["info/link.json"] = {"package_metadata_version": 1, "noarch": python}
        stem = f"{name}-{version}-{build}"
        path = self.folder / subdir / f"{stem}.conda"
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
            z.writestr("metadata.json", json.dumps({"conda_pkg_format_version": 2}))
            z.writestr(f"pkg-{stem}.tar.zst", _zstd(_tar(files)))
            about = {n: (json.dumps(j).encode(), 0o644, "") for n, j in info.items()}
            z.writestr(f"info-{stem}.tar.zst", _zstd(_tar(about)))
        self._packages.append((path, info["info/index.json"]))

    def install(self, prefix: Path, cache: Path) -> None:
        """Makes an environment of all packages."""
        import rattler

        records = []
        for number, (path, index) in enumerate(self._packages):
            file = self.folder / f"index-{number}.json"
            file.write_text(json.dumps(index))
            content = path.read_bytes()
            digests = hashlib.sha256(content).hexdigest(), hashlib.md5(content, usedforsecurity=False).hexdigest()
            record = rattler.PackageRecord.from_index_json(file, len(content), *digests)
            records.append(rattler.RepoDataRecord(record, path.name, path.as_uri(), self.folder.as_uri()))

        async def install() -> None:
            await rattler.install(records, prefix, cache_dir=cache, installed_packages=[], show_progress=False)

        asyncio.run(install())


def _path(name: str, file: File) -> Dict[str, Any]:
    content, _, to = file
    out: Dict[str, Any] = {"_path": name, "path_type": "softlink" if to else "hardlink"}
    if not to:
        out.update(sha256=hashlib.sha256(content).hexdigest(), size_in_bytes=len(content))
        if PLACEHOLDER in content:
            out.update(prefix_placeholder=PLACEHOLDER.decode(), file_mode="text")
    return out


def _tar(files: Dict[str, File]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as t:
        for name, (content, mode, to) in sorted(files.items()):
            about = tarfile.TarInfo(name)
            about.mode, about.size = mode, len(content)
            if to:
                about.type, about.linkname = tarfile.SYMTYPE, to
            t.addfile(about, io.BytesIO(content))
    return raw.getvalue()


def _zstd(content: bytes) -> bytes:
    """A Zstandard frame of raw blocks (RFC 8878, 3.1.1): one segment, a content size of four bytes."""
    out = [b"\x28\xb5\x2f\xfd\xa0", struct.pack("<I", len(content))]
    size = 128 << 10
    for start in range(0, len(content), size):
        block = content[start : start + size]
        last = start + size >= len(content)
        out += [struct.pack("<I", len(block) << 3 | last)[:3], block]
    return b"".join(out)
