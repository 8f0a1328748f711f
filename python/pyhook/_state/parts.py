"""What encoding and decoding agree on: how an object shows its content and takes it back."""

from __future__ import annotations

import contextlib
import copyreg
import inspect
import logging
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from typing import Any, Optional

import torch
import torch.distributed as dist

from .._loading.modules import stable_name
from .._renewal.retired import RetiredGroup
from .._runtime.parameters import Parameters, of_the_trainer

MAX_DEPTH = 100
"""The most levels of nesting, well below Python's own limit of recursion."""

FACTORIES = {kind.__name__: kind for kind in (bool, dict, float, int, list, set, str, tuple)}
"""The factories that a defaultdict may have."""

BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
"""numpy's own generators, which are made again by name."""

_LOCKS = (type(threading.Lock()), type(threading.RLock()))

GROUP = "process group"

MISSING: Any = object()
"""In place of the counterpart of a value that the state to restore does not have."""


def class_name(kind: type) -> str:
    """Return the name by which classes are compared, without a folder (``stable_name``).

    Only a trusted file has it looked up.
    """
    return f"{stable_name(kind.__module__)}.{kind.__qualname__}"


def same_name(saved: Any, here: Optional[str]) -> bool:
    """Return whether two full names may be those of one class or function.

    ``pkg/hooks.py`` is ``hooks`` where a spec names its path, and ``pkg.hooks`` where it names the
    module.
    """
    if saved == here:
        return True
    if not isinstance(saved, str) or not here or "." not in saved or "." not in here:
        return False
    return saved.endswith(f".{here}") or here.endswith(f".{saved}")


def kept(value: Any) -> Optional[str]:
    """Return a description of ``value`` if it belongs to the program and not the state, else None.

    Such a value is not saved. The state that is restored keeps its own, which must have the same
    description.
    """
    if isinstance(value, (dist.ProcessGroup, RetiredGroup)):
        return GROUP
    if isinstance(value, dist.Store):
        return "store"
    if isinstance(value, Parameters):
        return "parameters of the model"
    if of_the_trainer(value):  # its values are in the trainer's own checkpoint
        return f"parameter of shape {tuple(value.shape)} of the model"
    if isinstance(value, _LOCKS):
        return "lock"
    if isinstance(value, weakref.ref):
        return "weak reference"
    if isinstance(value, torch._C._CudaStreamBase):
        return "stream"
    if isinstance(value, logging.Logger):
        return f"logger {value.name}"
    if isinstance(value, types.ModuleType):
        return f"module {stable_name(value.__name__)}"
    if inspect.isroutine(value) or inspect.isclass(value):
        return _named(value)
    return None


def _named(value: Any) -> Optional[str]:
    """Return the full name of a function or class that can be found by it. A closure cannot."""
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", "")
    if inspect.isbuiltin(value) and isinstance(
        value.__self__, (type, types.ModuleType, type(None))
    ):
        return f"builtin {name}"  # torch.relu is not found under its name
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{stable_name(module or '')}.{name}" if found is value else None


def content_of(value: Any) -> Optional[tuple[str, Any]]:
    """Return how an object shows its content, and the content; None if only pickle might know.

    ``state_dict`` counts first. Otherwise it is what pickle's protocol 2 would write
    (``__getstate__``, or slots and ``__dict__``), without pickling it. ``object.__reduce_ex__``
    also refuses objects with a part that Python does not see, such as futures.
    """
    kind: Any = type(value)
    if callable(getattr(value, "state_dict", None)) and callable(
        getattr(value, "load_state_dict", None)
    ):
        return "state_dict", value.state_dict()
    plain: Any = object
    if kind.__reduce_ex__ is not plain.__reduce_ex__ or kind.__reduce__ is not plain.__reduce__:
        return None
    try:
        with _quiet(kind):
            reduced = value.__reduce_ex__(2)
    except TypeError:
        getters = [vars(base).get("__getstate__") for base in kind.__mro__[:-1]]
        own = next(filter(None, getters), None)
        if own is None or isinstance(own, types.MethodDescriptorType):  # a file's, of C
            return None
        raise
    if not isinstance(reduced, tuple) or len(reduced) < 2:
        return None
    if reduced[0] is not getattr(copyreg, "__newobj__") or reduced[1] != (kind,):  # noqa: B009
        return None
    if any(part is not None for part in reduced[3:]):
        return None  # a list or a dict with attributes
    content = reduced[2] if len(reduced) > 2 else None
    if hasattr(kind, "__setstate__"):
        return "setstate", content
    merged: dict[str, Any] = {}
    for part in content if isinstance(content, tuple) else (content,):
        if not isinstance(part, (dict, type(None))):
            return None  # a __getstate__ of another form, and no __setstate__
        merged.update(part or {})
    return "attributes", merged


def restore_content(target: Any, how: str, content: Any) -> None:
    """Give an object the content that ``content_of`` returned. Process groups not in it stay."""
    if how == "state_dict":
        target.load_state_dict(content)
    elif how == "attributes":
        _set(target, content)
    elif how == "setstate":
        # PowerSGDState.__setstate__ takes the default group, whichever it had.
        groups = {name: v for name, v in attributes_of(target).items() if kept(v) == GROUP}
        with _quiet(type(target)):
            target.__setstate__(content)
        given = content if isinstance(content, dict) else {}
        _set(target, {name: v for name, v in groups.items() if name not in given})
    else:
        raise ValueError(how)


def _set(target: Any, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        object.__setattr__(target, name, value)  # frozen dataclasses too


def attributes_of(value: Any) -> dict[str, Any]:
    """Return an object's attributes, those of slots too."""
    names = [*getattr(value, "__dict__", {}), *copyreg._slotnames(type(value))]  # type: ignore[attr-defined]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


@contextlib.contextmanager
def _quiet(kind: type) -> Iterator[None]:
    """Drop PowerSGDState's warnings that its group is not saved: here the group stays."""

    def wanted(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("NOTE: Process group")

    logger = logging.getLogger(kind.__module__)
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def untyped_storage(tensor: Any) -> Any:
    """Return a tensor's memory, by this torch's name for it."""
    if hasattr(tensor, "untyped_storage"):
        return tensor.untyped_storage()
    storage = tensor.storage()  # torch 1.13
    return storage.untyped() if hasattr(storage, "untyped") else storage._untyped()


def short(value: Any) -> str:
    """``repr(value)``, for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
