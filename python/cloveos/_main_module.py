"""Loads scripts as modules under other names than `__main__`, so that their guarded part doesn't run."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from importlib.machinery import SourceFileLoader
from typing import List, Optional

#: What a template's `preload` list may hold beside modules: this prefix and a path or a module's name.
PREFIX = "__main__:"

_loaded: Optional[str] = None
# The module that was `__main__` before: its globals must stay.
_kept: List[types.ModuleType] = []


def load_main(main: str) -> None:
    """Loads the caller's `/abs/script.py` or `package.module` as `__mp_main__` and makes it `__main__`; once.

    As multiprocessing's spawn does: what was pickled as `__main__.f` is then found here.
    """
    global _loaded
    if _loaded == main:
        return
    _kept.append(sys.modules["__main__"])
    if os.sep in main:
        module = load_script(main, "__mp_main__", "__main__")
    else:
        import runpy

        module = types.ModuleType("__mp_main__")
        module.__dict__.update(runpy.run_module(main, run_name="__mp_main__", alter_sys=True))
        sys.modules["__mp_main__"] = sys.modules["__main__"] = module
    _loaded = main


def load_script(path: str, name: str, *aliases: str) -> types.ModuleType:
    """Loads a file as the module `name`, known by its aliases too; whatever its ending is."""
    loader = SourceFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise ImportError(f"{path} can't be loaded as a Python script")
    module = importlib.util.module_from_spec(spec)
    before = {n: sys.modules.get(n) for n in (name, *aliases)}
    # Before it runs: dataclasses and pickle look their module up.
    for n in before:
        sys.modules[n] = module
    try:
        loader.exec_module(module)
    except BaseException:
        for n, old in before.items():
            if old is None:
                sys.modules.pop(n, None)
            else:
                sys.modules[n] = old
        raise
    return module
