"""Where the programs lie that take part, and the environment that both sides get."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTESTANTS = ROOT / "bench/contestants"

# What our templates run with (crates/clove/src/daemon/cells.rs), so that the peers lose nothing by it: memory in huge
# pages, and one thread for each experiment, as there are as many at a time as there are CPUs.
_ALIKE = {
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
}
_THEIR_OWN = ("PYTHONMALLOC", "GLIBC_TUNABLES")


class NotBuilt(Exception):
    """A program isn't there; the text says how to get it."""


@dataclasses.dataclass(frozen=True)
class Places:
    """The programs of one build."""

    clove: Path
    rust_client: Path
    #: Small C programs, compiled when the suite starts.
    programs: Path

    @classmethod
    def found(cls) -> Places:
        """Those of `CLOVE_BIN` and `CLOVE_BENCH_CLIENT`; else of the release build, else of the debug build."""
        named = os.environ.get("CLOVE_BIN")
        candidates = [Path(named)] if named else [ROOT / f"target/{kind}/clove" for kind in ("release", "debug")]
        clove = next((c.resolve() for c in candidates if c.is_file()), None)
        if clove is None:
            raise NotBuilt(f"no clove at {', '.join(map(str, candidates))}: make build")
        named = os.environ.get("CLOVE_BENCH_CLIENT")
        client = Path(named) if named else clove.parent / "examples/bench_client"
        if not client.is_file():
            flag = "" if clove.parent.name == "debug" else "--release "
            raise NotBuilt(f"no {client}: cargo build --locked {flag}-p clove-client --example bench_client")
        return cls(clove, client.resolve(), _compiled())


def _compiled() -> Path:
    """The C programs, linked statically."""
    folder = ROOT / "target/bench/programs"
    folder.mkdir(parents=True, exist_ok=True)
    for source in (ROOT / "bench/programs").glob("*.c"):
        program = folder / source.stem
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            try:
                subprocess.run(["cc", "-O2", "-static", "-o", program, source], check=True)
            except (OSError, subprocess.CalledProcessError) as e:
                raise NotBuilt(f"{source} can't be compiled: {e}; gcc and libc6-dev are needed") from e
    return folder


def environment(home: Path | None = None, clove: Path | None = None, *, own_malloc: bool = False) -> dict[str, str]:
    """Nothing of the caller's but its PATH: an OPENBLAS_CORETYPE of the host, say, would reach only one side.

    With `own_malloc`, memory allocators are left as Python and glibc come.
    """
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": f"{ROOT / 'python'}:{CONTESTANTS}",
        **_ALIKE,
    }
    if own_malloc:
        for name in _THEIR_OWN:
            del env[name]
    if home is not None:
        env["CLOVE_HOME"] = str(home)
    if clove is not None:
        env["CLOVE_BIN"] = str(clove)
    return env
