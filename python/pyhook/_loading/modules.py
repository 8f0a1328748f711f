"""Imports the modules that hooks are in: one for each file, by the name that ``import`` has for it.

``hooks.py:hook`` loads the file as the module ``hooks`` if ``import hooks`` would find that very
file, so that ``from hooks import C`` elsewhere gives the same class, and a process that is spawned
finds what was pickled. The file's folder goes to the end of ``sys.path``, where it hides nothing.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Optional

from .._errors import HookLoadError
from .missing import advice, is_here

_lock = threading.RLock()
_known: dict[str, ModuleType] = {}  # by the file's real path
_stems: set[str] = set()  # the last parts of the names that _known's files may have
_given: dict[str, str] = {}  # by a module's name: the path by which the user named its file
_private = 1  # how many modules have a name that import does not find


def is_file(where: str) -> bool:
    """Return whether the part of a spec before its colon names a file."""
    return where.endswith(".py") or os.sep in where or "/" in where


def import_module(name: str) -> ModuleType:
    """Import the module of this name.

    Raises:
        HookLoadError: ``no_module``, ``import_failed``.
    """
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(missing + "."):
            raise _import_failed(name, error) from error
        raise HookLoadError(
            "no_module",
            f"there is no module {missing!r}",
            "put its folder on PYTHONPATH, install it into this interpreter "
            f"({sys.executable or sys.prefix}), or write path/to/file.py:name"
            if "." not in missing or not is_here(missing.partition(".")[0])
            else advice(error),
        ) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(name, error) from error
    file = getattr(module, "__file__", None)
    if file and file.endswith(".py"):
        with _lock:
            _keep(module, file)
    return module


def import_file(where: str) -> ModuleType:
    """Import the module of a file, which runs the first time.

    Raises:
        HookLoadError: ``no_file``, ``bad_spec``, ``import_failed``.
    """
    path = os.path.abspath(os.path.expanduser(where))
    if not os.path.isfile(path):
        raise HookLoadError(
            "no_file",
            f"there is no file {where!r}",
            "" if os.path.isabs(where) else f"the working directory is {os.getcwd()}",
        )
    if not path.endswith(".py"):
        raise HookLoadError("bad_spec", f"{where!r} is not a .py file")
    module = _loaded(path)
    if module is None:
        for folder in (os.path.dirname(path), os.path.dirname(os.path.realpath(path))):
            if folder not in sys.path:
                sys.path.append(folder)
        name = importable_name(path)
        # Without the lock: import has locks of its own, which another thread may hold.
        module = _import_privately(path, where) if name is None else _import(name, path, where)
    with _lock:
        _keep(module, path)
        _given.setdefault(module.__name__, where)
    return module


def _loaded(path: str) -> Optional[ModuleType]:
    module = _known.get(os.path.realpath(path))
    return module if module and sys.modules.get(module.__name__) is module else None


def _import(name: str, path: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _import_failed(where, error, path) from error


def _import_privately(path: str, where: str) -> ModuleType:
    """Import a file whose name another module has, or no module can have."""
    with _lock:
        return _loaded(path) or _run_privately(path, where)


def _run_privately(path: str, where: str) -> ModuleType:
    global _private
    stem = re.sub(r"\W", "_", _stem(path))
    name = f"_pyhook_file_{_private + 1}_{stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise HookLoadError("bad_spec", f"{where!r} is not a .py file")
    _private += 1
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise _import_failed(where, error, path) from error
    _keep(module, path)
    return module


def importable_name(path: str) -> Optional[str]:
    """Return the name by which ``import`` finds this very file, or None.

    The file's name inside its package counts first (packages have an ``__init__.py``), if the
    package can be imported; then the file's own; then its name below folders of ``sys.path``
    without ``__init__.py``.
    """
    importlib.invalidate_caches()
    for name in _names(path):
        if _finds(name, path):
            return name
    return None


def _names(path: str) -> Iterator[str]:
    root, name = _package(path)
    package = name.partition(".")[0]
    if "." in name and _finds(package, os.path.join(root, package, "__init__.py")):
        yield name
    stem = _stem(path)
    if "." not in stem:
        yield stem
    for entry in [os.path.abspath(entry or os.curdir) for entry in sys.path]:
        if not path.startswith(os.path.join(entry, "")):
            continue
        parts = [*os.path.relpath(os.path.dirname(path), entry).split(os.sep), stem]
        if all(part.isidentifier() for part in parts) and _is_plain_folder(entry, parts[0]):
            yield ".".join(parts)


def _is_plain_folder(entry: str, name: str) -> bool:
    """Return whether ``import name`` makes a package of a folder without ``__init__.py``.

    Importing that runs nothing.
    """
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return False
    folders = [] if found is None else list(found.submodule_search_locations or ())
    return (
        found is not None
        and found.origin is None
        and os.path.realpath(os.path.join(entry, name)) in map(os.path.realpath, folders)
    )


def _finds(name: str, path: str) -> bool:
    try:
        found = importlib.util.find_spec(name)
    except (Exception, SystemExit):  # of the packages on the way
        return False
    if found is None or not found.origin:
        return False
    return os.path.realpath(found.origin) == os.path.realpath(path)


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _package(path: str) -> tuple[str, str]:
    """Return the folder of a file's outermost package, and the file's module name from there."""
    folder, name = os.path.dirname(path), inspect.getmodulename(path) or _stem(path)
    parts = [] if name == "__init__" else [name]
    while os.path.isfile(os.path.join(folder, "__init__.py")) and os.path.dirname(folder) != folder:
        folder, name = os.path.split(folder)
        parts.insert(0, name)
    return folder, ".".join(parts)


def _import_failed(where: str, error: BaseException, path: str = "") -> HookLoadError:
    hint = ""
    if isinstance(error, SystemExit):
        hint = 'put the script part under `if __name__ == "__main__":`'
    elif isinstance(error, ModuleNotFoundError):
        hint = advice(error)
    elif isinstance(error, ImportError) and "relative import" in str(error) and path:
        hint = _relative_hint(path)
    elif isinstance(error, ImportError):
        hint = advice(error)
    return HookLoadError(
        "import_failed", f"importing {where} failed: {type(error).__name__}: {error}", hint
    )


def _relative_hint(path: str) -> str:
    folder, name = _package(path)
    if "." not in name:
        folder, parent = os.path.split(folder)
        name = f"{parent}.{name}"
    return (
        "a file that is named by its path has no package around it: "
        f"set PYTHONPATH={folder} and write {name}:hook"
    )


def given_name(module: str) -> Optional[str]:
    """Return the path by which the user named a module's file, or None."""
    return _given.get(module)


def stable_name(module: str) -> str:
    """Return a module's name without its file's folder, for saved states.

    A file that the user named by its path has its own name, whatever its module is called.
    """
    given = _given.get(module)
    return module if given is None else _stem(given)


def find_stable(name: str) -> ModuleType:
    """Import the module whose ``stable_name`` this is. For trusted files only."""
    for module in _given:
        if stable_name(module) == name and module in sys.modules:
            return sys.modules[module]
    return importlib.import_module(name)


def _keep(module: ModuleType, path: str) -> None:
    """Have ``import`` find this module by every name of its file."""
    real = os.path.realpath(path)
    _known[real] = module
    _stems.update((_stem(path), _stem(real), module.__name__.rpartition(".")[2]))
    if not any(isinstance(finder, _OneModule) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OneModule())


class _OneModule(importlib.abc.MetaPathFinder):
    """Finds the one module of a file by the other names that ``import`` has for it.

    ``pkg/hooks.py`` is both ``pkg.hooks`` and, with ``pkg`` on ``sys.path``, ``hooks``: without
    this they would be two modules with different classes.
    """

    def find_spec(
        self,
        fullname: str,
        path: Optional[Sequence[str]] = None,
        target: Optional[ModuleType] = None,
    ) -> Optional[importlib.machinery.ModuleSpec]:
        if fullname.rpartition(".")[2] not in _stems:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if found is None or not found.origin:
            return None
        module = _known.get(os.path.realpath(found.origin))
        if module is None or module.__name__ == fullname:
            return None  # its own name: other finders find it, also in a reload
        if sys.modules.get(module.__name__) is not module:
            return None
        return importlib.util.spec_from_loader(fullname, _Alias(module), origin=found.origin)


class _Alias(importlib.abc.Loader):
    """Returns a module that is imported already, and leaves it as it is."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # import has set the alias's
