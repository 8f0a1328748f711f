"""Finds files that hide a library's module, as a ``torch.py`` in the working folder does.

Python looks into the folders of ``sys.path`` one by one, the trainer's own first. The failure is
then somewhere inside torch, and names no such file.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import TracebackType
from typing import Optional

from .._errors import ShadowError

_LIBRARIES = ("site-packages", "dist-packages")


def of(name: str) -> Optional[str]:
    """Return a sentence that names the file that hides module ``name``, or None.

    A file in a library's own folder hides nothing.
    """
    for number, folder in enumerate(sys.path):
        found = _in(folder, name)
        if found is None or os.path.basename(os.path.normpath(folder)) in _LIBRARIES:
            continue
        for later in sys.path[number + 1 :]:
            other = _in(later, name)
            if other is not None and os.path.realpath(later) != os.path.realpath(folder):
                return f"{found} is found as {name}, in place of {other}"
        return None
    return None


def refuse(name: str) -> None:
    """Raise ShadowError, naming both, where a plain file hides a library that is a package."""
    said = None if hasattr(sys.modules.get(name), "__path__") else of(name)
    if said is not None:
        raise error([said])


def behind(failure: BaseException) -> list[str]:
    """Return what may have caused a failed import, as ``of`` says it."""
    names = {"torch", "numpy"}
    names.update(name for name in sys.modules if "." not in name)
    step: Optional[TracebackType] = failure.__traceback__
    while step is not None:  # a module that raised is not in sys.modules
        names.add(os.path.basename(step.tb_frame.f_code.co_filename).partition(".")[0])
        step = step.tb_next
    return [said for said in map(of, sorted(names)) if said is not None]


def error(sentences: list[str]) -> ShadowError:
    """Return the error of these sentences."""
    return ShadowError(
        "shadowed",
        "torch cannot be used: " + "; ".join(sentences),
        "rename the file, or start the program in another folder: what is in the working "
        "folder, PYTHONPATH or Config.Path is found before torch's and Python's own modules",
    )


def _in(folder: str, name: str) -> Optional[str]:
    """Return the file that Python would find in a folder for a module, or None."""
    try:
        spec: Optional[ModuleSpec] = PathFinder.find_spec(name, [folder or os.getcwd()])
    except (ImportError, ValueError, OSError):
        return None
    if spec is None or spec.origin is None or not spec.has_location:
        return None  # a folder without __init__.py hides nothing
    return spec.origin
