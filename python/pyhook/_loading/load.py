"""Loads a hook or a state from a text such as ``"my.hooks:fp16"``.

A spec is one of

* ``package.module:name``, where name may be dotted (``Class.method``);
* ``path/to/file.py:name``, relative to the working directory or absolute;
* a short name of ``SHORT_NAMES``: ``powersgd``;
* one of these with arguments, literals and specs: ``fp16_wrapper(powersgd)``,
  ``file.py:make(rank=2, compression="fp16")``, ``my.hooks:scaled(file.py:hook, mod:other)``.
  The words ``ddp``, ``parameters`` and ``process_group`` stand for the trainer's: see ``factory``.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from types import ModuleType
from typing import Any, Callable, Optional

from .._errors import HookLoadError
from . import modules
from .factory import OF_THE_TRAINER, Trainer, call_factory, construct
from .names import SHORT_NAMES, STATE_SHORT_NAMES, hook_name
from .spec import Spec, parse, split_target


def load_hook(
    spec: str, group: Optional[Any] = None, parameters: Optional[Any] = None
) -> Callable[..., Any]:
    """Load the hook that ``spec`` names, and check it by ``check_hook``.

    A file runs once, as the module that ``import`` finds (see ``modules``). Its folder is put at
    the end of ``sys.path``, so that it finds its neighbours.

    A function or class with arguments is called with them. If that makes an object which is no
    hook, but has a method such as ``attach(ddp)`` or registers a hook when it is made, the result
    is a ``pyhook.capture.Registered``: the hook and the state that it registers.

    Args:
        spec: see the module.
        group: for factories that take a ``process_group``; the default group if None.
        parameters: the trainer's, for factories that take them.

    Raises:
        HookLoadError: see the codes there. The ``__cause__`` of ``import_failed`` is the error in
            the module.
    """
    return _hook(parse(spec), Trainer(group, parameters))


def _hook(spec: Spec, trainer: Trainer) -> Callable[..., Any]:
    hook = _find(spec, SHORT_NAMES)
    if spec.called:
        hook, model = call_factory(hook, *_arguments(spec, trainer), trainer)
        if model is not None and model.registered is not None:
            hook = model.registered
    if not takes_buckets(hook):
        method = trainer.registering_method(hook)
        if method is not None:
            hook = trainer.attach(hook, method)
    check_hook(hook)
    return hook  # type: ignore[no-any-return]


def takes_buckets(hook: Any) -> bool:
    """Return whether ``check_hook`` takes it."""
    try:
        check_hook(hook)
    except HookLoadError:
        return False
    return True


def _find(spec: Spec, short_names: dict[str, str]) -> Any:
    """Return what is named before the brackets."""
    where, name = split_target(spec.target, short_names)
    _install_legacy_names()
    load = modules.import_file if modules.is_file(where) else modules.import_module
    found = _attribute(load(where), name, where)
    if spec.called and not callable(found):
        raise HookLoadError("not_callable", f"{spec.target} is a {type(found).__name__}")
    return found


def _arguments(spec: Spec, trainer: Trainer) -> tuple[str, list[Any], dict[str, Any]]:
    """Return the factory's name and the values of its arguments."""
    arguments = [_argument(value, trainer) for value in spec.arguments]
    return (
        spec.target,
        arguments,
        {name: _argument(value, trainer) for name, value in spec.keywords.items()},
    )


def _argument(value: Any, trainer: Trainer) -> Any:
    if type(value) in (list, tuple):
        return type(value)(_argument(item, trainer) for item in value)
    if not isinstance(value, Spec):
        return value
    if value.text in OF_THE_TRAINER:
        return value  # the factory's call replaces it
    return _hook(value, trainer)


def _install_legacy_names() -> None:
    try:
        from .._torch import install_legacy_names
    except ImportError:
        return  # a hook that needs torch says so itself
    install_legacy_names()


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
    """Check that ``hook(state, bucket)`` can be called.

    DDP's ``_check_comm_hook`` (torch/nn/parallel/distributed.py) also wants a parameter called
    ``bucket``, exact annotations and a ``__name__``. Here callable objects, partials and bound
    methods are hooks too.

    Raises:
        HookLoadError: ``not_callable``, ``arity``, ``async``, ``generator``.
    """
    if not callable(hook):
        raise HookLoadError(
            "not_callable",
            f"Communication hook must be callable. Got {type(hook).__name__}",
            "name the function, or give the class a __call__(self, state, bucket); an object that "
            "a function keeps things in is its state, and is named as the state",
        )
    if inspect.isclass(hook):
        raise HookLoadError(
            "not_callable",
            f"{hook_name(hook)} is a class",
            "a hook is a function or an instance: write it with its arguments in brackets, "
            "file.py:Class(rank=2), if its instance is the hook or registers one; a class that "
            "holds state is given as the state",
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
    _check_bucket_call(hook)


def _check_bucket_call(hook: Any) -> None:
    try:
        # A decorator's own parameters count, not those of what it wraps.
        signature = inspect.signature(hook, follow_wrapped=False)
    except (ValueError, TypeError):
        return  # C functions may have none
    try:
        signature.bind(None, None)
    except TypeError as error:
        if list(signature.parameters)[:1] == ["hook"]:
            hint = "this looks like a wrapper: write module:wrapper(module:hook)"
        else:
            hint = f"its parameters are {signature}"
        raise HookLoadError(
            "arity", f"{hook_name(hook)} cannot be called with (state, bucket): {error}", hint
        ) from None


def build_state(
    spec: str,
    kwargs: Optional[dict[str, Any]] = None,
    group: Optional[Any] = None,
    parameters: Optional[Any] = None,
) -> Any:
    """Make the state that a hook takes, from a class or a function.

    Args:
        spec: as for hooks, or a name of ``STATE_SHORT_NAMES``. Arguments in brackets are the
            class's or function's.
        kwargs: more keyword arguments for it.
        group: passed as ``process_group`` where that is a parameter and not in ``kwargs``; the
            default group if None. A required ``subgroup`` (PostLocalSGDState) is None if left out.
        parameters: the trainer's, passed as ``parameters`` where that is a parameter.

    Raises:
        HookLoadError: ``bad_arguments`` lists what is accepted; else as ``load_hook``. Errors of
            the constructor itself pass through.
    """
    read, trainer = parse(spec), Trainer(group, parameters)
    factory = _find(read, {**SHORT_NAMES, **STATE_SHORT_NAMES})
    _, arguments, keywords = _arguments(read, trainer)
    twice = set(keywords) & set(kwargs or {})
    if twice:
        raise HookLoadError("bad_arguments", f"{spec} is given {', '.join(sorted(twice))} twice")
    return construct(factory, arguments, {**keywords, **(kwargs or {})}, trainer)


def construct_state(
    factory: Any,
    kwargs: Optional[dict[str, Any]] = None,
    group: Optional[Any] = None,
    parameters: Optional[Any] = None,
) -> Any:
    """Make a state as ``build_state`` does, of a class or function at hand."""
    return construct(factory, [], dict(kwargs or {}), Trainer(group, parameters))
