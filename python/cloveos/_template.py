"""The template host: loads what its spec names, once, then is forked into agents while its control socket lives.

Started by the launcher as `python .../cloveos/_template.py` with the control socket (SOCK_SEQPACKET) as descriptor 3,
`CLOVE_TEMPLATE_SPEC` naming a JSON file (`python`, `preload`, `setup`, `script`, `sys_path`, optionally `env`) and
`CLOVE_TEMPLATE_LIB` the library whose `clove_template_serve` forks. It says `ready` or `failed` in one datagram.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Callable, Dict, List, NoReturn, Optional, Tuple

CONTROL_FD = 3
#: What `clove_template_serve` returns.
IN_EMBRYO, IN_TEMPLATE, END_OF_CONTROL = 0, 1, -1

_MESSAGE_CHARS = 4 << 10


def _tell(what: str) -> None:
    """Says what is begun: imports and setup may hang, or end the process. Only a real template has somebody to tell."""


class TemplateFailed(Exception):
    """The template can't be made; `traceback` is the user's part of it."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.traceback = traceback


class Template:
    """What has been loaded."""

    def __init__(self) -> None:
        self.run: Optional[Callable[..., Any]] = None
        self.takes_shared = False
        self.shared: Any = None
        self.notes: List[str] = []


def main() -> NoReturn:
    """Builds the template, says so, and forks agents until the launcher goes."""
    import gc
    import json

    from . import _agent

    global _tell
    _tell = lambda what: report({"event": "doing", "what": what})  # noqa: E731
    try:
        with open(os.environ.pop("CLOVE_TEMPLATE_SPEC"), encoding="utf-8") as f:
            spec = json.load(f)
        library = os.environ.pop("CLOVE_TEMPLATE_LIB")
        # Imports make much that stays: collecting in between only costs.
        gc.disable()
        template = build(spec)
        serve = _serve_function(library)
        agent = _agent.Agent(template.run, template.takes_shared, template.shared)
        _agent.rehearse(agent)
        settle()
        report({"event": "ready", "threads": 1, "rss_bytes": rss_bytes(), "notes": template.notes})
    except TemplateFailed as e:
        fail(e.message, e.traceback)
    except Exception as e:
        from ._traceback_text import user_traceback

        fail(f"the template host itself failed: {type(e).__name__}: {e}", user_traceback(e))
    while True:
        result = serve()
        if result == IN_EMBRYO:
            code = 70
            try:
                code = _agent.main(agent)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        if result == END_OF_CONTROL:
            os._exit(0)
        if result != IN_TEMPLATE:
            report({"event": "error", "errno": -result, "message": f"forking failed: {os.strerror(-result)}"})


def build(spec: Dict[str, Any]) -> Template:
    """Imports and sets up everything, and checks that the process can be forked. Raises :class:`TemplateFailed`."""
    from . import _thread_pools, agent
    from ._import_watch import ImportWatch

    agent._building_template = True
    for name in _thread_pools.VARIABLES:
        os.environ.setdefault(name, "1")
    os.environ.update(spec.get("env") or {})
    wanted = [p for p in spec.get("sys_path") or [] if p]
    sys.path[:] = wanted + [p for p in sys.path if p not in wanted]
    _start_streams()
    template = Template()
    template.notes = _python_notes()
    with ImportWatch() as watch:
        for name in spec.get("preload") or []:
            _load(name)
            watch.note(name)
        script = _load_script(spec.get("script"), template)
        watch.note(spec.get("script") or "")
        setup_name = _run_setup(spec.get("setup"), script, template)
        watch.note(setup_name)
        _warm_up(sys.modules)
        watch.note("the template host")
    _check(watch)
    agent._building_template = False
    return template


def _start_streams() -> None:
    import faulthandler

    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        # A crash leaves its Python traceback in the certificate's tail.
        faulthandler.enable()
    except (OSError, ValueError, RuntimeError, AttributeError):
        pass  # no standard error


def _python_notes() -> List[str]:
    import platform

    return [f"{platform.python_implementation()} {platform.python_version()}"]


def _load(name: str) -> None:
    import importlib

    from . import _main_module

    if name.startswith(_main_module.PREFIX):
        main = name[len(_main_module.PREFIX) :]
        _attempt(f"loading the main script {main}", lambda: _main_module.load_main(main))
    else:
        _attempt(f"importing {name}", lambda: importlib.import_module(name))


def _load_script(path: Optional[str], template: Template) -> Any:
    if not path:
        return None
    from ._main_module import load_script

    stem = os.path.splitext(os.path.basename(path))[0]
    # A pickle made by a colleague's `import train` finds it by its stem; a module of that name goes first.
    aliases = [stem] if stem.isidentifier() and stem not in sys.modules and not _is_stdlib(stem) else []
    sys.argv = [path]
    script = _attempt(f"loading {path}", lambda: load_script(path, "__clove_main__", *aliases))
    run = getattr(script, "run", None)
    if not callable(run):
        raise TemplateFailed(f"{path} defines no function `run`: write `def run(config, shared): ...`")
    template.run = run
    template.takes_shared = _takes_two(run)
    return script


def _is_stdlib(name: str) -> bool:
    names = getattr(sys, "stdlib_module_names", None)  # 3.10
    return name in names if names is not None else name in sys.builtin_module_names


def _takes_two(run: Callable[..., Any]) -> bool:
    import inspect

    try:
        signature = inspect.signature(run)
    except (TypeError, ValueError):
        return True
    for args in ((None, None), (None,)):
        try:
            signature.bind(*args)
        except TypeError:
            continue
        return len(args) == 2
    raise TemplateFailed(f"run{signature} can't be called with (config, shared) nor with (config)")


def _run_setup(named: Optional[str], script: Any, template: Template) -> str:
    if named:
        module_name, _, function_name = named.rpartition(":")
        module = script
        if module_name:
            import importlib

            module = _attempt(f"importing {module_name} for its setup", lambda: importlib.import_module(module_name))
        setup: Any = module
        for part in function_name.split("."):
            setup = getattr(setup, part, None)
        if not callable(setup):
            raise TemplateFailed(f"there is no function {function_name!r} in {module_name or 'the script'} for setup")
        what = named
    else:
        setup = getattr(script, "setup", None)
        what = "setup()"
        if not callable(setup):
            return what
    template.shared = _attempt(what if what == "setup()" else f"setup {what}", setup)
    return what


def _attempt(what: str, action: Callable[[], Any]) -> Any:
    from ._traceback_text import class_name, clean, user_traceback

    _tell(clean(what, 200))
    try:
        return action()
    except BaseException as e:
        left = isinstance(e, SystemExit)
        reason = f"it called sys.exit({(e.args or (None,))[0]!r})" if left else f"{class_name(type(e))}: {e}"
        raise TemplateFailed(
            f"{what} failed: {clean(reason, _MESSAGE_CHARS)}", clean(user_traceback(e), 60_000)
        ) from None


def _warm_up(modules: Dict[str, Any]) -> None:
    """First uses that every task would otherwise pay for."""
    import random

    random.random()
    if "numpy" in modules:
        import importlib

        # numpy loads it lazily; reseeding needs it.
        _attempt("importing numpy.random", lambda: importlib.import_module("numpy.random").random())


def _check(watch: Any) -> None:
    """Refuses what can't be forked, naming the module."""
    import time

    from ._thread_pools import ThreadPools

    torch = sys.modules.get("torch")
    if torch is not None and _cuda_is_up(torch):
        raise TemplateFailed(
            "CUDA was initialised while the template was built, and a CUDA context can't be forked. "
            "Move what touches the GPU out of the imports and setup, into the task"
        )
    threads: List[Tuple[str, str]] = watch.threads()
    if threads:
        ThreadPools().stop()
        # Some libraries start a thread that is done at once.
        for _ in range(20):
            threads = watch.threads()
            if not threads:
                break
            time.sleep(0.02)
    if threads:
        who = _list(f"{module} (thread {name!r})" for module, name in threads)
        raise TemplateFailed(
            f"{_count(len(threads), 'thread')} still ran when the template was built, and threads can't be forked; "
            f"started by: {who}. Start them in the task instead, or leave that module out of the preload"
        )
    fds = watch.fds()
    if fds:
        who = _list(f"{module} ({what})" for module, _, what in fds)
        raise TemplateFailed(
            f"{_count(len(fds), 'descriptor')} stayed open when the template was built, and its agents would share "
            f"{'it' if len(fds) == 1 else 'them'}; opened by: {who}. Close what was opened, or open it in the task"
        )


def _cuda_is_up(torch: Any) -> bool:
    try:
        return bool(torch.cuda.is_initialized())
    except Exception:
        return False


def _list(items: Any) -> str:
    unique = list(dict.fromkeys(items))
    more = f" and {len(unique) - 8} more" if len(unique) > 8 else ""
    return ", ".join(unique[:8]) + more


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def settle() -> None:
    """The last thing before the forks: garbage away, the rest out of the collector's sight, free memory returned."""
    import ctypes
    import gc

    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()
    gc.collect()
    gc.freeze()
    gc.enable()
    try:
        # A child would copy free heap pages that it writes to, which costs more than having the kernel clear new ones.
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # not glibc


def rss_bytes() -> int:
    """Resident memory of this process."""
    try:
        with open("/proc/self/statm", encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def report(event: Dict[str, Any]) -> None:
    """One datagram to the launcher."""
    import json

    os.write(CONTROL_FD, json.dumps(event).encode("ascii"))


def fail(message: str, traceback: str) -> NoReturn:
    """Says why there will be no template, and ends."""
    sys.stdout.flush()
    report({"event": "failed", "message": message, "traceback": traceback})
    os._exit(1)


def _serve_function(library: str) -> Callable[[], int]:
    import ctypes

    # PyDLL keeps the GIL: between the hooks there is a fork.
    serve = ctypes.PyDLL(library).clove_template_serve
    serve.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    serve.restype = ctypes.c_int
    before, child, parent = (
        ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p)
        for name in ("PyOS_BeforeFork", "PyOS_AfterFork_Child", "PyOS_AfterFork_Parent")
    )
    return lambda: int(serve(CONTROL_FD, before, child, parent))


def _bootstrap() -> NoReturn:
    """Run by path: loads this package from beside this file, whatever the interpreter has installed."""
    import importlib
    import importlib.util

    here = os.path.dirname(os.path.abspath(__file__))
    if not getattr(sys.flags, "safe_path", False) and sys.path:
        del sys.path[0]  # this folder, or with -m the working folder: neither is the user's
    if "cloveos" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "cloveos", os.path.join(here, "__init__.py"), submodule_search_locations=[here]
        )
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules["cloveos"] = package
        spec.loader.exec_module(package)
    importlib.import_module("cloveos._template").main()
    os._exit(0)


if __name__ == "__main__":
    _bootstrap()
