"""From a text such as ``"my.hooks:fp16"`` to a hook, and to the state it takes.

A spec is one of

* ``package.module:name``, where name may be dotted (``Class.method``);
* ``path/to/file.py:name``, relative to the working directory or absolute;
* a short name of ``SHORT_NAMES``: ``powersgd``;
* a wrapper around others: ``fp16_wrapper(powersgd)``,
  ``my.hooks:scaled(file.py:hook, mod:other)``.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import threading
from types import ModuleType
from typing import Any, Callable, Optional

from ._absent import advice, is_here
from ._errors import HookLoadError

_DDP = "torch.distributed.algorithms.ddp_comm_hooks"

SHORT_NAMES = {
    "allreduce": f"{_DDP}.default_hooks:allreduce_hook",
    "fp16": f"{_DDP}.default_hooks:fp16_compress_hook",
    "bf16": f"{_DDP}.default_hooks:bf16_compress_hook",
    "fp16_wrapper": f"{_DDP}.default_hooks:fp16_compress_wrapper",
    "bf16_wrapper": f"{_DDP}.default_hooks:bf16_compress_wrapper",
    "powersgd": f"{_DDP}.powerSGD_hook:powerSGD_hook",
    "batched_powersgd": f"{_DDP}.powerSGD_hook:batched_powerSGD_hook",
    "noop": f"{_DDP}.debugging_hooks:noop_hook",
    "quantize_pertensor": f"{_DDP}.quantization_hooks:quantization_pertensor_hook",
    "quantize_perchannel": f"{_DDP}.quantization_hooks:quantization_perchannel_hook",
    "post_localsgd": f"{_DDP}.post_localSGD_hook:post_localSGD_hook",
}
"""Hooks that PyTorch ships (torch/distributed/algorithms/ddp_comm_hooks)."""

STATE_SHORT_NAMES = {
    "powersgd": f"{_DDP}.powerSGD_hook:PowerSGDState",
    "batched_powersgd": f"{_DDP}.powerSGD_hook:PowerSGDState",
    "post_localsgd": f"{_DDP}.post_localSGD_hook:PostLocalSGDState",
}

_lock = threading.RLock()


def load_hook(spec: str) -> Callable[..., Any]:
    """The hook that ``spec`` names, checked by ``check_hook``.

    A file is run once, as a module under a stable name that is registered in
    ``sys.modules`` (so what it defines can be pickled), and its folder is put
    at the end of ``sys.path`` (so that it finds its neighbours).

    Raises:
        HookLoadError: see the codes there. For ``import_failed`` the error in
            the module is the ``__cause__``.
    """
    hook = _resolve(spec, SHORT_NAMES)
    check_hook(hook)
    return hook  # type: ignore[no-any-return]


def _resolve(spec: str, short_names: dict[str, str]) -> Any:
    spec = spec.strip()
    if spec.endswith(")"):
        target, arguments = _split_call(spec)
        factory = _resolve(target, short_names)
        if not callable(factory):
            raise HookLoadError("not_callable", f"{target} is a {type(factory).__name__}")
        hooks = [_resolve(argument, short_names) for argument in arguments]
        for hook in hooks:
            check_hook(hook)
        _check_bind(factory, hooks, target)
        return factory(*hooks)
    if spec in short_names:
        spec = short_names[spec]
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise HookLoadError("bad_spec", f"cannot read {spec!r}", _spec_hint(spec, short_names))
    with _lock:
        _install_legacy_names()
        module = _import_file(where) if _is_file(where) else _import_module(where)
        return _attribute(module, name, where)


def _spec_hint(spec: str, short_names: dict[str, str]) -> str:
    near = difflib.get_close_matches(spec.lower(), short_names, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if spec.endswith(".py"):
        return f"say which function of the file: {spec}:my_hook"
    module, dot, name = spec.rpartition(".")
    if dot and re.fullmatch(r"[\w.]+", spec):
        return f"put a colon before the function's name: {module}:{name}"
    return f"write package.module:name, path/file.py:name, or one of {', '.join(short_names)}"


def _split_call(spec: str) -> tuple[str, list[str]]:
    """``"f(a, g(b))"`` -> ``("f", ["a", "g(b)"])``, from the last bracket back."""
    depth, end, parts = 0, len(spec) - 1, []
    for i in range(len(spec) - 1, -1, -1):
        character = spec[i]
        if character == ")":
            depth += 1
        elif character == "," and depth == 1:
            parts.append(spec[i + 1 : end])
            end = i
        elif character == "(":
            depth -= 1
            if depth == 0 and i > 0:
                parts.append(spec[i + 1 : end])
                arguments = [part.strip() for part in reversed(parts)]
                return spec[:i], [] if arguments == [""] else arguments
    raise HookLoadError("bad_spec", f"the brackets of {spec!r} do not match")


def _is_file(where: str) -> bool:
    return where.endswith(".py") or os.sep in where or "/" in where


def _install_legacy_names() -> None:
    try:
        from ._torch import install_legacy_names
    except ImportError:
        return  # a hook that needs torch says so itself
    install_legacy_names()


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
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


def _import_file(where: str) -> ModuleType:
    path = os.path.realpath(os.path.expanduser(where))
    if not os.path.isfile(path):
        raise HookLoadError(
            "no_file",
            f"there is no file {where!r}",
            "" if os.path.isabs(where) else f"the working directory is {os.getcwd()}",
        )
    stem = re.sub(r"\W", "_", os.path.splitext(os.path.basename(path))[0])
    name = f"pyhook_file_{stem}_{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise HookLoadError("bad_spec", f"{where!r} is not a .py file")
    if os.path.dirname(path) not in sys.path:
        sys.path.append(os.path.dirname(path))
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise _import_failed(where, error) from error
    return module


def _import_failed(where: str, error: BaseException) -> HookLoadError:
    hint = ""
    if isinstance(error, SystemExit):
        hint = 'put the script part under `if __name__ == "__main__":`'
    elif isinstance(error, ImportError):
        hint = advice(error)
    return HookLoadError(
        "import_failed", f"importing {where} failed: {type(error).__name__}: {error}", hint
    )


def _attribute(module: ModuleType, name: str, where: str) -> Any:
    value: Any = module
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError as error:
            near = difflib.get_close_matches(part, dir(value), n=3)
            functions = [
                key
                for key, item in vars(value).items()
                if callable(item)
                and not key.startswith("_")
                and getattr(item, "__module__", None) == module.__name__
            ]
            hint = f"did you mean {' or '.join(near)}?" if near else ""
            if functions:
                hint = f"{hint} It has: {', '.join(functions[:20])}".strip()
            raise HookLoadError("no_attribute", f"{where} has no {name!r}", hint) from error
    return value


def check_hook(hook: Any) -> None:
    """See that ``hook(state, bucket)`` can be called at all.

    More lenient than DDP's ``_check_comm_hook``
    (torch/nn/parallel/distributed.py), which wants a parameter called
    ``bucket``, exact annotations and a ``__name__``: callable objects, partials
    and bound methods are hooks too.

    Raises:
        HookLoadError: ``not_callable``, ``arity``, ``async``, ``generator``.
    """
    if not callable(hook):
        raise HookLoadError(
            "not_callable", f"Communication hook must be callable. Got {type(hook).__name__}"
        )
    if inspect.isclass(hook):
        raise HookLoadError(
            "not_callable",
            f"{hook_name(hook)} is a class",
            "a hook is a function or an instance; a class that holds state is given as the state",
        )
    inner = hook
    while isinstance(inner, functools.partial):
        inner = inner.func
    bodies = [inner, getattr(type(inner), "__call__", None)]
    if any(inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f) for f in bodies):
        raise HookLoadError(
            "async",
            f"{hook_name(hook)} is an `async def`",
            "write a plain def; collectives with async_op=True are asynchronous as they are",
        )
    if any(inspect.isgeneratorfunction(f) for f in bodies):
        raise HookLoadError("generator", f"{hook_name(hook)} has a `yield` in it")
    _check_bind(hook, [None, None], hook_name(hook))


def _check_bind(function: Any, arguments: list[Any], name: str) -> None:
    try:
        # A decorator's own parameters count, not those of what it wraps.
        signature = inspect.signature(function, follow_wrapped=False)
    except (ValueError, TypeError):
        return  # C functions may have none: calling it will tell
    try:
        signature.bind(*arguments)
    except TypeError as error:
        names = list(signature.parameters)
        if arguments and arguments[0] is None and names[:1] == ["hook"]:
            hint = "this looks like a wrapper: write module:wrapper(module:hook)"
        else:
            hint = f"its parameters are {signature}"
        called = "(state, bucket)" if arguments == [None, None] else f"{len(arguments)} hook(s)"
        raise HookLoadError(
            "arity", f"{name} cannot be called with {called}: {error}", hint
        ) from None


def hook_name(hook: Any) -> str:
    """``module.qualname`` of a hook, and something as telling for other kinds."""
    if isinstance(hook, functools.partial):
        return f"functools.partial({hook_name(hook.func)})"
    module = getattr(hook, "__module__", None) or type(hook).__module__
    name = getattr(hook, "__qualname__", None)
    if name is None:
        return f"{type(hook).__module__}.{type(hook).__qualname__} instance"
    owner = getattr(hook, "__self__", None)
    if owner is not None and not inspect.ismodule(owner) and not inspect.isclass(owner):
        return f"{type(owner).__module__}.{type(owner).__qualname__}.{hook.__name__}"
    return f"{module}.{name}"


def build_state(
    spec: str, kwargs: Optional[dict[str, Any]] = None, group: Optional[Any] = None
) -> Any:
    """The state object that a hook takes, made from a class or a function.

    Args:
        spec: as for hooks, or a name of ``STATE_SHORT_NAMES``.
        kwargs: keyword arguments for it.
        group: given as ``process_group`` where that is a parameter and not in
            ``kwargs``; the default group if None. A required ``subgroup``
            (PostLocalSGDState) is given as None if left out.

    Raises:
        HookLoadError: ``bad_arguments`` lists what is accepted; else as
            ``load_hook``. What the constructor itself raises passes through.
    """
    return construct_state(_resolve(spec, {**SHORT_NAMES, **STATE_SHORT_NAMES}), kwargs, group)


def construct_state(
    factory: Any, kwargs: Optional[dict[str, Any]] = None, group: Optional[Any] = None
) -> Any:
    """``build_state`` for a class or function at hand."""
    name = hook_name(factory)
    if not callable(factory):
        raise HookLoadError("not_callable", f"the state {name} is no class and no function")
    arguments = dict(kwargs or {})
    try:
        signature = inspect.signature(factory)
    except (ValueError, TypeError):
        return factory(**arguments)
    if "process_group" in signature.parameters and "process_group" not in arguments:
        arguments["process_group"] = group if group is not None else _default_group()
    subgroup = signature.parameters.get("subgroup")
    if subgroup is not None and subgroup.default is inspect.Parameter.empty:
        arguments.setdefault("subgroup", None)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise HookLoadError(
            "bad_arguments",
            f"{name}: {error}",
            f"it accepts {', '.join(str(p) for p in signature.parameters.values()) or 'nothing'}",
        ) from None
    return factory(**arguments)


def _default_group() -> Any:
    import torch.distributed as dist

    return dist.group.WORLD if dist.is_initialized() else None
