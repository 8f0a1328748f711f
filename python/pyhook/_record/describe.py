"""How a hook, its state and the job are found again: the part of the manifest without tensors."""

from __future__ import annotations

import functools
import inspect
import math
import platform
import sys
from typing import Any, Optional

import torch
import torch.distributed as dist

from .. import __version__
from .._loading.load import takes_buckets
from .._loading.modules import given_name
from .._loading.names import SHORT_NAMES, STATE_SHORT_NAMES, hook_name, inside_wrapper
from .._state.parts import attributes_of, kept

_WRAPPERS = {"fp16_compress_wrapper": "fp16_wrapper", "bf16_compress_wrapper": "bf16_wrapper"}


def describe_world() -> dict[str, Any]:
    """Return the ranks, the versions and the seeds."""
    numpy = sys.modules.get("numpy")
    return {
        "rank": dist.get_rank(),
        "world_size": dist.get_world_size(),
        "backend": str(dist.get_backend()),
        "versions": {
            "pyhook": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "numpy": None if numpy is None else str(numpy.__version__),
        },
        "threads": torch.get_num_threads(),
        "seed": str(torch.initial_seed()),  # up to 64 bits: more than JSON's numbers have
    }


def describe_hook(hook: Any) -> dict[str, Any]:
    """Return a hook's name and, where there is one, the spec that finds it again."""
    spec, why = _spec(hook)
    return {
        "name": hook_name(hook),
        "module": getattr(hook, "__module__", None),
        "qualname": getattr(hook, "__qualname__", None),
        "spec": spec,
        "no_spec": why,
    }


def describe_state(hook: Any, state: Any) -> dict[str, Any]:
    """Return a state's class, what of it can be written down as text, and its process groups."""
    spec, why = _state_spec(state)
    kind = type(state)
    named = state is None or isinstance(state, dist.ProcessGroup)
    attributes = {} if named else _literals(state)
    return {
        "class": None if named else f"{kind.__module__}.{kind.__qualname__}",
        "spec": spec,
        "no_spec": why,
        "attributes": attributes,
        "arguments": {} if named else _arguments(kind, state)[0],
        "groups": _groups(state),
    }


def _spec(hook: Any) -> tuple[Optional[str], Optional[str]]:
    """Return a spec for ``load_hook``, or None and why there is none."""
    module, name = getattr(hook, "__module__", None) or "", getattr(hook, "__qualname__", None)
    if isinstance(hook, functools.partial):
        inner, why = _spec(hook.func)
        plain = not hook.args and all(map(_is_literal, hook.keywords.values()))
        if inner is None or not plain or not takes_buckets(hook.func):
            return None, why or "a functools.partial with arguments that a text cannot give"
        keywords = [f"{key}={value!r}" for key, value in hook.keywords.items()]
        return f"functools:partial({', '.join([inner, *keywords])})", None
    if name is None:
        return _instance_spec(hook)
    wrapper, within = _WRAPPERS.get(name.partition(".")[0]), inside_wrapper(hook)
    if wrapper is not None and within is not None:
        inner, why = _spec(within)
        return (None, why) if inner is None else (f"{wrapper}({inner})", None)
    if inspect.ismethod(hook) and not inspect.isclass(hook.__self__):
        return None, f"a method of an object of {type(hook.__self__).__qualname__}"
    return _named(hook, module, name, SHORT_NAMES)


def _named(
    value: Any, module: str, name: str, short_names: dict[str, str]
) -> tuple[Optional[str], Optional[str]]:
    if "<lambda>" in name:
        return None, "a lambda, which has no name"
    if "<locals>" in name:
        return None, f"a function made inside of {name.partition('.<locals>')[0]}"
    if module == "__main__":
        path = getattr(sys.modules.get("__main__"), "__file__", None)
        if path is None:
            return None, "of a notebook or an interactive session"
        return None, f"of __main__, the program {path}"
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not value:
        return None, f"not what the name {module}:{name} gives"
    full = f"{given_name(module) or module}:{name}"
    short = [word for word, target in short_names.items() if target == full]
    return (short[0] if short else full), None


def _instance_spec(hook: Any) -> tuple[Optional[str], Optional[str]]:
    """Return the spec of an object with ``__call__``: its class, with the arguments it shows."""
    kind = type(hook)
    spec, why = _named(kind, kind.__module__, kind.__qualname__, {})
    if spec is None:
        return None, why
    arguments, whole = _arguments(kind, hook)
    if not whole:
        return None, f"an object of {spec}, whose arguments are not known"
    return f"{spec}({_text(arguments)})", None


def _state_spec(state: Any) -> tuple[Optional[str], Optional[str]]:
    """Return a spec for ``build_state``; None without why where there is nothing to make."""
    if state is None or isinstance(state, dist.ProcessGroup):
        return None, None
    kind = type(state)
    spec, why = _named(kind, kind.__module__, kind.__qualname__, STATE_SHORT_NAMES)
    if spec is None or spec in STATE_SHORT_NAMES:
        return spec, why  # what is restored from the file wins over any argument
    arguments, whole = _arguments(kind, state)
    if not whole:
        return None, f"an object of {spec}, whose arguments are not known"
    return (f"{spec}({_text(arguments)})" if arguments else spec), None


def _arguments(kind: type, made: Any) -> tuple[dict[str, Any], bool]:
    """Return the arguments of a class as its object shows them, and whether all are there."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        return {}, False
    shown, arguments, whole = _literals(made), {}, True
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name in shown:
            arguments[parameter.name] = shown[parameter.name]
        elif parameter.default is parameter.empty and parameter.name != "process_group":
            whole = False
    return arguments, whole


def _text(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _literals(state: Any) -> dict[str, Any]:
    """Return the attributes that are plain values."""
    return {
        name: value
        for name, value in attributes_of(state).items()
        if isinstance(name, str) and _is_literal(value)
    }


def _is_literal(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if type(value) is int:
        return abs(value) < 1 << 53
    return value is None or type(value) in (bool, str)


def _groups(state: Any) -> list[dict[str, Any]]:
    """Return the process groups that a state is or has, with the ranks of each."""
    found = {"": state} if isinstance(state, dist.ProcessGroup) else attributes_of(state)
    return [
        {"attribute": name, "ranks": _ranks(value)}
        for name, value in found.items()
        if isinstance(name, str) and kept(value) == "process group"
    ]


def _ranks(group: Any) -> list[int]:
    if hasattr(dist, "get_process_group_ranks"):
        return [int(rank) for rank in dist.get_process_group_ranks(group)]
    names: Any = dist.distributed_c10d
    if group is dist.group.WORLD:
        return list(range(dist.get_world_size()))
    return sorted(int(rank) for rank in names._pg_group_ranks[group])  # torch 1.13
