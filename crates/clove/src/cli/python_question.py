# Asked of an interpreter by `clove`: what is it made of? The answer is JSON on standard output.
# Run with -E, as none of the PYTHON* variables is set inside either.
import json
import os
import site
import sys


def editable():
    """Source folders of packages installed in place through an import hook (setuptools' editable mode)."""
    for name, module in list(sys.modules.items()):
        mapping = getattr(module, "MAPPING", None)
        if name.startswith("__editable__") and isinstance(mapping, dict):
            yield from map(str, mapping.values())


def linked(folder):
    """Where the packages of a folder really are, when they are links (`uv --link-mode symlink`, virtualenv, PDM).

    Only in folders that installers fill: a link in a project's own may lead to anything.
    """
    if os.path.basename(folder) not in ("site-packages", "dist-packages") or not os.access(folder, os.R_OK):
        return
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.islink(path):
            yield os.path.realpath(path)
        elif name.endswith(".dist-info"):
            # Each file for itself, in folders of the environment's own: the whole package lies around its metadata.
            path = os.path.join(path, "METADATA")
            home, at = os.path.split(os.path.dirname(os.path.realpath(path)))
            if os.path.islink(path) and at == name:
                yield home


user = site.getusersitepackages() if site.ENABLE_USER_SITE else None
user = user if user and os.path.isdir(user) else None
path = [p for p in sys.path if p and os.path.exists(p)]
elsewhere = {p for folder in path for p in linked(folder)}
json.dump(
    {
        "executable": sys.executable,
        "version": sys.version_info[:3],
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "exec_prefix": sys.exec_prefix,
        "base_exec_prefix": sys.base_exec_prefix,
        "path": path,
        "packages_elsewhere": sorted(elsewhere.union(editable())),
        "user_site": user,
        "user_base": site.getuserbase() if user else None,
    },
    sys.stdout,
)
