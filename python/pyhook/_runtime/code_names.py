"""Finds the names that a hook's code uses, without running it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

_MOST = 200  # functions that are looked at


def names_in(*values: Any) -> set[str]:
    """Return the names that functions, methods, partials, callable objects and classes use.

    That includes the names in functions of the same module and class that they name.
    """
    names: set[str] = set()
    seen: set[int] = set()
    left = list(values)
    while left and len(seen) < _MOST:
        value = left.pop()
        while isinstance(value, functools.partial):
            value = value.func
        function = getattr(value, "__func__", value)
        if id(function) in seen:
            continue
        seen.add(id(function))
        code = getattr(function, "__code__", None)
        if code is None:
            left += _methods(value)
            continue
        used = _names_of(code)
        names |= used
        left += _near(value, function, used)
    return names


def _methods(value: Any) -> list[Any]:
    """Return the methods of a class, or of an object that can be called."""
    kind = value if isinstance(value, type) else type(value)
    if kind.__module__ == "builtins" or not callable(value):
        return []
    return [member for member in vars(kind).values() if callable(member)]


def _near(value: Any, function: Any, used: set[str]) -> Iterator[Any]:
    """Yield what a function can call of its own module, its closure and its object."""
    scope = getattr(function, "__globals__", {})
    module = getattr(function, "__module__", None)
    for name in used:
        found = scope.get(name)
        if callable(found) and getattr(found, "__module__", None) == module:
            yield found
    for cell in getattr(function, "__closure__", None) or ():
        try:
            inner = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if callable(inner):
            yield inner
    owner = getattr(value, "__self__", None)
    if owner is not None:
        yield owner if isinstance(owner, type) else type(owner)


def _names_of(code: Any) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            names |= _names_of(constant)
    return names
