"""What to do about a module that is missing: install only what can be installed.

Nothing that one could install adds a module to a package that is here: the package is of another
version than the hook was written for.
"""

from __future__ import annotations

import importlib.util
import sys


def advice(error: ImportError) -> str:
    """Return the hint for an import that failed, or ""."""
    name = error.name or ""
    top = name.partition(".")[0]
    if not isinstance(error, ModuleNotFoundError):
        if top == "torch":  # cannot import name ... from torch...
            return f"{_version(top)} has no such name: the hook is for another version of torch"
        return ""
    if not name:
        return ""
    if top in getattr(sys, "stdlib_module_names", ()):
        version = ".".join(map(str, sys.version_info[:3]))
        return (
            f"{name} is a part of Python that {version} at {sys.executable or sys.prefix} lacks: "
            "the hook is for another version of Python, or this one was built without it"
        )
    if top == name or not is_here(top):
        return f"install {top} into {sys.executable or sys.prefix}"
    return f"{_version(top)} is here and has no {name}: the hook is for another version of {top}"


def is_here(top: str) -> bool:
    """Return whether a package or module of that name can be found."""
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _version(top: str) -> str:
    version = getattr(sys.modules.get(top), "__version__", "")
    return f"{top} {version}".strip()
