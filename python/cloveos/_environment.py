"""What of the caller's own Python an agent has to see: interpreter, `sys.path`, the script's folder, their state."""

from __future__ import annotations

import hashlib
import os
import sys
from types import ModuleType
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

#: Files looked at for the digest; a change in one beyond goes unnoticed.
MAX_DIGEST_FILES = 2000
#: The caller's variables that workers see too: they decide how text, time and Python behave, and hold no secrets.
INHERITED = (
    "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONHASHSEED", "PYTHONUTF8", "PYTHONWARNINGS", "PYTHONOPTIMIZE",
)  # fmt: skip

# The system's folders are there in every agent.
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin")
# Folders that hold more than a project: never mounted as a whole.
_TOO_WIDE = (
    "/",
    "/tmp",
    "/var",
    "/var/tmp",
    "/etc",
    "/home",
    "/root",
    "/opt",
    "/mnt",
    "/srv",
    "/run",
    "/dev",
    "/proc",
    "/sys",
)
# Folders of a home that programs are installed into, but that have other things in them too: everybody's data, tokens.
_PRIVATE = (".local", ".cargo", ".config", ".npm-global", "go")
_SKIPPED_FOLDERS = frozenset(("__pycache__", "node_modules", "site-packages", "build", "dist", "venv", "env"))

MountLike = Union[str, Sequence[str], Dict[str, Any]]


class MainModule:
    """The caller's `__main__`: whether it can be loaded in another process, and why not."""

    def __init__(self, module: Optional[ModuleType] = None) -> None:
        module = module if module is not None else sys.modules.get("__main__")
        #: Path or module name for `_main_module.load_main`; None when it can't or needn't be loaded.
        self.load: Optional[str] = None
        #: The script's path, also when it can't be loaded.
        self.path: Optional[str] = None
        #: Why functions of it can't be found by name in another process.
        self.reason = ""
        self._guarded: List[Tuple[int, int]] = []
        self._look(module)

    def _look(self, module: Optional[ModuleType]) -> None:
        path = getattr(module, "__file__", None)
        if path is None or not os.path.isfile(path):
            self.reason = "`__main__` is no file (a notebook, an interactive session, or -c)"
            return
        self.path = os.path.abspath(path)
        spec = getattr(module, "__spec__", None)
        name = getattr(spec, "name", None)
        if os.path.basename(self.path) == "__main__.py":
            self.reason = "`__main__` is a package's own `__main__.py`"
            return
        if os.path.dirname(self.path) in (os.path.join(p, "bin") for p in (sys.prefix, sys.base_prefix)):
            self.reason = f"{self.path} is an installed command"
            return
        self._guarded = _guards(self.path)
        if not self._guarded:
            self.reason = f'{self.path} has no `if __name__ == "__main__":` around what it starts'
            return
        self.load = name or self.path

    def defines_in_guard(self, fn: Any) -> bool:
        """Whether a function is defined in the guarded part, which doesn't run in another process."""
        code = getattr(fn, "__code__", None)
        if code is None or self.path is None or os.path.abspath(code.co_filename) != self.path:
            return False
        return any(first <= code.co_firstlineno <= last for first, last in self._guarded)


def _guards(path: str) -> List[Tuple[int, int]]:
    """First and last lines of the `if __name__ == "__main__"` blocks at the top level of a file."""
    import ast

    try:
        with open(path, "rb") as f:
            tree = ast.parse(f.read())
    except (OSError, SyntaxError, ValueError):
        return []
    return [
        (node.lineno, node.end_lineno or node.lineno)
        for node in tree.body
        if isinstance(node, ast.If) and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test))
    ]


def sys_path() -> List[str]:
    """The caller's `sys.path`, absolute, without what doesn't exist."""
    out: List[str] = []
    for entry in sys.path:
        path = os.path.abspath(entry or os.getcwd())
        if os.path.exists(path) and path not in out:
            out.append(path)
    return out


def mounts(main: MainModule, more: Sequence[MountLike]) -> List[Dict[str, Any]]:
    """Read-only mounts of everything that the caller's code is made of, then those asked for."""
    wanted: List[str] = []
    for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix):
        if _is_private(prefix):
            wanted += [os.path.join(prefix, d) for d in ("lib", "lib64")]
        else:
            wanted.append(prefix)
    wanted += _executables(sys.executable)
    for entry in sys_path():
        wanted.append(entry)
        wanted += _linked_packages(entry)
    wanted += _editable_folders()
    wanted.append(os.path.dirname(os.path.abspath(__file__)))
    if main.path is not None:
        folder = os.path.dirname(main.path)
        wanted += [folder] if not too_wide(folder) else [main.path, *_loaded_from(folder)]
    out: Dict[str, Dict[str, Any]] = {}
    for path in _outermost(p for w in wanted for p in _visible(w)):
        # A file's link at its own path stays a link inside, where what it leads to is shown as well.
        source = path if os.path.isfile(path) else os.path.realpath(path)
        out[path] = {"source": source, "target": path, "writable": False}
    for mount in more:
        parsed = parse_mount(mount)
        out[parsed["target"]] = parsed
    return list(out.values())


def _visible(path: str) -> Iterator[str]:
    """A path as it is named, and as it really is when it goes over links."""
    path = os.path.abspath(path)
    for p in dict.fromkeys((path, os.path.realpath(path))):
        if os.path.exists(p) and not _within(p, _SYSTEM):
            if os.path.isdir(p) and too_wide(p):
                yield from _loaded_from(p)
            else:
                yield p


def _loaded_from(folder: str) -> List[str]:
    """Files right in a folder, too wide to be mounted, of which modules are loaded."""
    return [p for p in _module_files() if os.path.dirname(p) == folder]


def _module_files() -> List[str]:
    found = []
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str):
            found.append(os.path.abspath(path))
    return found


def too_wide(folder: str) -> bool:
    """The root, a home, or another folder that holds more than one project."""
    homes = {os.path.expanduser("~"), os.environ.get("HOME", "")}
    return (
        folder in _TOO_WIDE or folder in homes or os.path.realpath(folder) in {os.path.realpath(h) for h in homes if h}
    )


def _is_private(folder: str) -> bool:
    """A folder of the home that has other things in it too, such as ~/.local."""
    home = os.path.expanduser("~")
    private = [os.path.join(home, name) for name in _PRIVATE]
    return folder in private or os.path.realpath(folder) in map(os.path.realpath, private)


def _executables(executable: str) -> List[str]:
    """The interpreter and each link on the way to its file: by the installation that it lies in, else by itself.

    A virtual environment's leads to uv's or pyenv's versioned folder, maybe over ~/.local/bin.
    """
    out: List[str] = []
    if not executable:
        return out
    path = os.path.abspath(executable)
    for _ in range(40):  # as many as Linux follows (path_resolution(7))
        prefix, bin_ = os.path.split(os.path.dirname(path))
        installed = any(os.path.exists(os.path.join(prefix, d)) for d in ("lib", "lib64", "pyvenv.cfg"))
        whole = bin_ == "bin" and installed and not too_wide(prefix) and not _is_private(prefix)
        out.append(prefix if whole else path)
        if not os.path.islink(path):
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    return out


def _linked_packages(folder: str) -> List[str]:
    """Where the packages of a folder really are, when they are links (`uv --link-mode symlink`, virtualenv, PDM).

    Only in folders that installers fill: a link in a project's own may lead to anything.
    """
    out: List[str] = []
    if os.path.basename(folder) not in ("site-packages", "dist-packages") or not os.access(folder, os.R_OK):
        return out
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.islink(path):
            out.append(os.path.realpath(path))
        elif name.endswith(".dist-info"):
            # Each file for itself, in folders of the environment's own: the whole package lies around its metadata.
            path = os.path.join(path, "METADATA")
            home, at = os.path.split(os.path.dirname(os.path.realpath(path)))
            if os.path.islink(path) and at == name:
                out.append(home)
    return out


def _editable_folders() -> List[str]:
    """Source folders of packages that are installed in place through an import hook (setuptools' editable mode)."""
    out = []
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__"):
            mapping = getattr(module, "MAPPING", None)
            if isinstance(mapping, dict):
                out += [str(path) for path in mapping.values()]
    return out


def _within(path: str, folders: Iterable[str]) -> bool:
    return any(path == f or path.startswith(f + "/") for f in folders)


def _outermost(paths: Iterable[str]) -> List[str]:
    """Without what lies in another of them."""
    out: List[str] = []
    for path in sorted(set(paths)):
        if not _within(path, out):
            out.append(path)
    return out


def parse_mount(mount: MountLike) -> Dict[str, Any]:
    """`SRC:DST[:rw]`, `(SRC, DST[, "rw"])`, or the wire's own form."""
    if isinstance(mount, dict):
        parts: List[str] = [mount["source"], mount["target"]] + (["rw"] if mount.get("writable") else [])
    elif isinstance(mount, str):
        parts = mount.split(":")
    else:
        parts = [os.fspath(p) for p in mount]
    if len(parts) == 1:
        parts = [parts[0], parts[0]]
    if len(parts) not in (2, 3) or (len(parts) == 3 and parts[2] not in ("ro", "rw")):
        raise ValueError(f"mounts: {mount!r} isn't SRC:DST or SRC:DST:rw")
    source = os.path.abspath(os.path.expanduser(parts[0]))
    if not os.path.exists(source):
        raise ValueError(f"mounts: {source} doesn't exist")
    if not os.path.isabs(parts[1]):
        parts[1] = source if parts[0] == parts[1] else parts[1]
    if not os.path.isabs(parts[1]):
        raise ValueError(f"mounts: {parts[1]!r}, the place inside, has to be absolute")
    return {"source": source, "target": os.path.normpath(parts[1]), "writable": len(parts) == 3 and parts[2] == "rw"}


def working_folder(visible: Iterable[Dict[str, Any]]) -> Optional[str]:
    """The caller's working folder, if the agent sees it."""
    try:
        cwd = os.getcwd()
    except OSError:
        return None
    return cwd if _within(cwd, [m["target"] for m in visible]) else None


def inherited_env() -> Dict[str, str]:
    """The caller's variables that workers get too."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def inputs_digest(main: MainModule, extra_files: Iterable[str] = ()) -> str:
    """Changes when the interpreter, the installed packages or the caller's own files change."""
    digest = hashlib.sha256()

    def add(*parts: object) -> None:
        digest.update("\0".join(map(str, parts)).encode("utf-8", "surrogateescape") + b"\n")

    add(sys.version, sys.executable)
    for entry in sys.path:
        add("path", entry, _mtime(entry or "."))
    files = set(extra_files)
    if main.path is not None:
        files.add(main.path)
        folder = os.path.dirname(main.path)
        if not too_wide(folder):
            files.update(_sources(folder))
    for path in sorted(files)[:MAX_DIGEST_FILES]:
        try:
            s = os.stat(path)
        except OSError:
            continue
        add("file", path, s.st_size, s.st_mtime_ns)
    return digest.hexdigest()


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _sources(folder: str) -> Iterator[str]:
    left = MAX_DIGEST_FILES
    for visited, (root, folders, files) in enumerate(os.walk(folder)):
        if visited == MAX_DIGEST_FILES:
            return  # a project with that many folders holds data, not code
        folders[:] = sorted(
            f
            for f in folders
            if f not in _SKIPPED_FOLDERS
            and not f.startswith(".")
            and not os.path.exists(os.path.join(root, f, "pyvenv.cfg"))
        )
        for name in sorted(files):
            if name.endswith(".py"):
                yield os.path.join(root, name)
                left -= 1
                if not left:
                    return


def own_modules() -> List[str]:
    """Source files of loaded modules that aren't installed packages: what the caller edits between two runs."""
    skipped = [os.path.realpath(p) for p in (sys.prefix, sys.base_prefix)]
    return [p for p in _module_files() if p.endswith(".py") and not _within(os.path.realpath(p), (*skipped, *_SYSTEM))]


def preload_for(fn: Any, main: MainModule) -> List[str]:
    """The modules that a function needs: its own, or for one of `__main__` what its globals come from."""
    module_name = getattr(fn, "__module__", None) or ""
    if module_name and module_name != "__main__":
        return [module_name] if _importable(module_name) else []
    if main.load is not None:
        return []  # loading the main script imports them
    out: Dict[str, None] = {}
    for value in list(getattr(fn, "__globals__", {}).values()):
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and _third_party(name):
            out[name] = None
    return list(out)[:50]


def _importable(name: str) -> bool:
    module = sys.modules.get(name)
    return getattr(module, "__spec__", None) is not None


def _third_party(name: str) -> bool:
    top = name.partition(".")[0]
    module = sys.modules.get(name)
    if top in ("__main__", "builtins", "cloveos", "IPython", "ipykernel") or not _importable(name):
        return False
    path = getattr(module, "__file__", None)
    if not isinstance(path, str):
        return False
    stdlib = os.path.dirname(os.path.abspath(os.__file__))
    return "site-packages" in path or "dist-packages" in path or not _within(os.path.abspath(path), (stdlib,))
