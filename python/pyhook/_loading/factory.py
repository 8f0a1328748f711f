"""Calls what makes a hook or a state, with what it takes of the trainer's.

A parameter of its signature without an argument gets, by its name:

* ``process_group``: the group;
* ``parameters``: the trainer's parameters (``pyhook.Parameters``), if they are known;
* ``subgroup``, if it is required (PostLocalSGDState): None;
* ``ddp``, ``ddp_model``, ``ddp_module``, ``model`` or ``module``, if it is required: the
  stand-in for the DDP model (``pyhook.capture.Model``).

In a spec the words of ``OF_THE_TRAINER`` pass them to parameters of any name:
``gns.py:Stats(ddp)``, ``by_name.py:State(params=parameters)``.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, Callable, Optional

from .._errors import HookLoadError
from .names import DDP_HOOKS, hook_name, inside_wrapper
from .spec import Spec

OF_THE_TRAINER = ("ddp", "parameters", "process_group")
_MODEL_NAMES = ("ddp", "ddp_model", "ddp_module", "model", "module")
_REGISTERING = ("attach", "register", "register_hook", "register_comm_hook", "attach_to")
"""Methods that take the DDP model, to register a hook with it."""


class Trainer:
    """The trainer's process group and parameters."""

    def __init__(self, group: Optional[Any], parameters: Optional[Any]) -> None:
        self._group = group
        if parameters is not None:
            from .._runtime.parameters import Parameters

            if not isinstance(parameters, Parameters):
                parameters = Parameters(parameters)
        self.parameters = parameters

    def group(self) -> Any:
        """Return the process group, or None before there is one."""
        if self._group is not None:
            return self._group
        import torch.distributed as dist

        return dist.group.WORLD if dist.is_initialized() else None

    def model(self) -> Any:
        """Make a stand-in for the DDP model, which takes one hook."""
        from ..capture import Model

        return Model(self.parameters or (), self.group())

    def registering_method(self, value: Any) -> Optional[str]:
        """Return the name of the method that registers ``value``'s hook with a model, or None."""
        if inspect.isclass(value) or inspect.ismodule(value) or inspect.isroutine(value):
            return None
        for name in _REGISTERING:
            if callable(getattr(value, name, None)):
                return name
        return None

    def attach(self, value: Any, method: str) -> Any:
        """Have ``value`` register with a stand-in, and return the ``pyhook.capture.Registered``."""
        model = self.model()
        getattr(value, method)(model)
        if model.registered is None:
            raise HookLoadError(
                "not_callable",
                f"{hook_name(value)}: {method}(ddp) called no ddp.register_comm_hook(state, hook)",
                "give a hook by its own name, and its state by --state or Runtime.NewState",
            )
        return model.registered


class _BindError(Exception):
    def __init__(self, text: str, signature: inspect.Signature, keywords: dict[str, Any]) -> None:
        super().__init__(text)
        self.signature, self.keywords = signature, keywords


class _Call:
    """One call of a factory: what it is given, and the stand-in if it is given one."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.made: Optional[Any] = None

    def model(self) -> Any:
        if self.made is None:
            self.made = self.trainer.model()
        return self.made

    def meant(self, value: Any) -> Any:
        """Return ``value`` with the words of ``OF_THE_TRAINER`` replaced."""
        if type(value) in (list, tuple):
            return type(value)(self.meant(item) for item in value)
        if not isinstance(value, Spec):
            return value
        if value.text == "ddp":
            return self.model()
        if value.text == "process_group":
            return self.trainer.group()
        if self.trainer.parameters is None:
            raise HookLoadError("bad_arguments", "the parameters are not known here", _UNKNOWN)
        return self.trainer.parameters

    def __call__(
        self, factory: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]
    ) -> Any:
        """Call the factory.

        Raises:
            _BindError: it does not take these arguments.
        """
        arguments = [self.meant(value) for value in arguments]
        keywords = {key: self.meant(value) for key, value in keywords.items()}
        try:
            signature = inspect.signature(factory)
        except (ValueError, TypeError):  # C functions may have none
            return factory(*arguments, **keywords)
        self.fill(signature, len(arguments), keywords)
        try:
            signature.bind(*arguments, **keywords)
        except TypeError as error:
            raise _BindError(str(error), signature, keywords) from None
        arguments, keywords = _whole(signature, factory, arguments, keywords)
        return factory(*arguments, **keywords)

    def fill(self, signature: inspect.Signature, given: int, keywords: dict[str, Any]) -> None:
        """Add to ``keywords`` what the trainer has for parameters that have no argument."""
        for i, (name, parameter) in enumerate(signature.parameters.items()):
            if i < given or name in keywords or parameter.kind in _BY_POSITION_OR_ALL:
                continue
            required = parameter.default is inspect.Parameter.empty
            if name == "process_group":
                keywords[name] = self.trainer.group()
            elif name == "parameters" and self.trainer.parameters is not None:
                keywords[name] = self.trainer.parameters
            elif name == "subgroup" and required:
                keywords[name] = None
            elif name in _MODEL_NAMES and required:
                keywords[name] = self.model()


_BY_POSITION_OR_ALL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.VAR_KEYWORD,
)
_UNKNOWN = (
    "give them as HookConfig.Parameters, or the state's argument `parameters` as "
    "Runtime.Parameters(...); in Python, load_hook and build_state take parameters="
)


def call_factory(
    factory: Callable[..., Any],
    name: str,
    arguments: list[Any],
    keywords: dict[str, Any],
    trainer: Trainer,
) -> tuple[Any, Optional[Any]]:
    """Call what makes a hook.

    Returns:
        What it returned, and the stand-in for the DDP model if it was given one.

    Raises:
        HookLoadError: ``arity`` if it is called with hooks alone, else ``bad_arguments``.
    """
    only_hooks = not keywords and all(callable(value) for value in arguments)
    call = _Call(trainer)
    try:
        return call(factory, arguments, keywords), call.made
    except _BindError as error:
        what = f"{len(arguments)} hook(s)" if only_hooks else "these arguments"
        raise HookLoadError(
            "arity" if only_hooks else "bad_arguments",
            f"{name} cannot be called with {what}: {error}",
            f"its parameters are {error.signature}",
        ) from None


def construct(
    factory: Any, arguments: list[Any], keywords: dict[str, Any], trainer: Trainer
) -> Any:
    """Call what makes a state.

    Raises:
        HookLoadError: ``not_callable``, ``bad_arguments``.
    """
    name = hook_name(factory)
    if not callable(factory):
        raise HookLoadError("not_callable", f"the state {name} is no class and no function")
    call = _Call(trainer)
    try:
        state = call(factory, arguments, keywords)
    except _BindError as error:
        parameters = error.signature.parameters
        hint = f"it accepts {', '.join(str(p) for p in parameters.values()) or 'nothing'}"
        if "parameters" in parameters and "parameters" not in error.keywords:
            hint = f"{hint}. The trainer's parameters: {_UNKNOWN}"
        raise HookLoadError("bad_arguments", f"{name}: {error}", hint) from None
    if call.made is not None and call.made.registered is not None:
        raise HookLoadError(
            "bad_arguments",
            f"{name} registered a hook, which is not used where it is the state",
            "give it in place of the hook, with brackets: file.py:Class()",
        )
    return state


def _whole(
    signature: inspect.Signature, factory: Any, arguments: list[Any], keywords: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Make whole floats ints where the parameter is an int.

    Go's JSON has floats only, and Python's ``range(2.0)`` fails deep inside a hook.
    """
    positional = [
        p
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    arguments = [
        _whole_argument(p, value, factory) for p, value in zip(positional, arguments)
    ] + arguments[len(positional) :]
    named = {
        key: _whole_argument(signature.parameters[key], value, factory)
        if key in signature.parameters
        else value
        for key, value in keywords.items()
    }
    return arguments, named


def _whole_argument(parameter: inspect.Parameter, value: Any, factory: Any) -> Any:
    if type(value) is not float:
        return value
    must = _must_be_int(parameter, factory)
    if value.is_integer() and (must or (type(parameter.default) is int and _is_plain(parameter))):
        return int(value)
    if not must:
        return value
    raise HookLoadError(
        "bad_arguments",
        f"{hook_name(factory)}: {parameter.name}={value!r} is not a whole number",
        f"it accepts {parameter}",
    )


def _is_plain(parameter: inspect.Parameter) -> bool:
    return parameter.annotation is inspect.Parameter.empty


def _must_be_int(parameter: inspect.Parameter, factory: Any) -> bool:
    """Return whether a parameter takes ints only, by its annotation or PyTorch's documentation.

    A default that is an int does not show it: PowerSGDState's ``min_compression_rate=2`` and
    ``orthogonalization_epsilon=0`` take fractions.
    """
    if _is_plain(parameter):
        own = str(getattr(factory, "__module__", "")).startswith(f"{DDP_HOOKS}.")
        return own and parameter.name in _INTS
    annotation = parameter.annotation
    if annotation in (int, Optional[int]):
        return True
    text = annotation if isinstance(annotation, str) else str(annotation)
    return text.replace(" ", "") in ("int", "Optional[int]", "typing.Optional[int]", "int|None")


_INTS = (
    "matrix_approximation_rank",
    "start_powerSGD_iter",
    "random_seed",
    "compression_stats_logging_frequency",
    "start_localSGD_iter",
)
"""Parameters of PyTorch's own states that are ints, and have no annotations."""


_DEFAULT_STATES = {
    f"{DDP_HOOKS}.powerSGD_hook": {
        "powerSGD_hook": "PowerSGDState",
        "batched_powerSGD_hook": "PowerSGDState",
    },
    f"{DDP_HOOKS}.post_localSGD_hook": {"post_localSGD_hook": "PostLocalSGDState"},
}
"""PyTorch's own hooks that need a state: by module, hook -> class."""


def default_state(hook: Any, trainer: Trainer) -> Any:
    """Make the state of a PyTorch hook that needs one, with PyTorch's defaults; else return None.

    PyTorch's wrappers around such a hook need it too.

    Raises:
        HookLoadError: ``bad_arguments`` if the class has a parameter without a default.
    """
    while (inner := inside_wrapper(hook)) is not None:
        hook = inner
    module = getattr(hook, "__module__", None) or ""
    name = _DEFAULT_STATES.get(module, {}).get(getattr(hook, "__name__", ""))
    if name is None:
        return None
    try:
        return construct(getattr(sys.modules[module], name), [], {}, trainer)
    except HookLoadError as error:
        raise HookLoadError(
            error.code,
            f"{hook_name(hook)} needs a state: {error.message}",
            f"make it with Runtime.NewState, or --state and --state-arg; {error.hint}",
        ) from None
