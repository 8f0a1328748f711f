"""The tensors that a hook and its state hold on a device.

PyTorch calls hooks on the trainer's stream, where their state was made. Here they run on another:
a tensor of which a hook lets go there, since it puts another one into its state, would be given to
the trainer's stream while the hook's still reads it. So the allocator has to know.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch

_LIMIT = 10_000
"""Objects that are looked at, nearest first: a state may hold a logger, and that the program."""

_CONTAINERS = (list, tuple, set, frozenset, deque)
_PLAIN = {type(None), bool, int, float, complex, str, bytes, type, types.ModuleType}


def tensors(of: Iterable[Any], device: torch.device) -> Iterator[torch.Tensor]:
    """Yield the tensors there in containers, attributes, closures and bound arguments."""
    queue = deque(of)
    seen: set[int] = set()
    while queue and len(seen) < _LIMIT:
        value = queue.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            if value.device == device and value.layout is torch.strided:
                yield value
        else:
            queue.extend(inside for inside in _inside(value) if type(inside) not in _PLAIN)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, _CONTAINERS):
        return list(value)
    if isinstance(value, functools.partial):
        return (value.func, value.args, value.keywords)
    if isinstance(value, types.MethodType):
        return (value.__self__, value.__func__)
    if isinstance(value, types.FunctionType):
        return _of_function(value)
    kind: Any = type(value)
    slots = [getattr(value, name, None) for name in _slots(kind)]
    return slots + list(vars(value).values()) if hasattr(value, "__dict__") else slots


@functools.lru_cache(maxsize=1024)
def _slots(kind: type) -> list[str]:
    found: list[str] = []
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        found += (slots,) if isinstance(slots, str) else slots
    return found


def _of_function(function: types.FunctionType) -> Iterable[Any]:
    """What it closes over and its defaults, and its module's variables that hold values."""
    found: list[Any] = [function.__defaults__, function.__kwdefaults__]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it is empty
            found.append(cell.cell_contents)
    variables = (function.__globals__.get(name) for name in function.__code__.co_names)
    kinds = (torch.Tensor, dict, *_CONTAINERS)
    return found + [value for value in variables if isinstance(value, kinds)]
