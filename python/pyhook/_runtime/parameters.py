"""The nn.Parameters that hooks see, over the trainer's values or without any."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Optional

import torch

from .._errors import HookLoadError

_MARK = "_pyhook_of_the_trainer"
_LARGE = 1 << 16  # what is less is no object's address

_live: weakref.WeakValueDictionary[int, torch.nn.Parameter] = weakref.WeakValueDictionary()
"""What ``make_parameter`` made, by id."""


def make_parameter(
    value: Optional[torch.Tensor],
    size: Sequence[int],
    dtype: str,
    device: str = "cpu",
    attributes: Optional[dict[str, Any]] = None,
    name: str = "",
) -> torch.nn.Parameter:
    """The one nn.Parameter of a trainer's parameter, for every layout that it is in.

    Over ``value``, sharing its memory; without a value as ``BucketLayout`` says. ``attributes``
    are set on it. By ``name`` saved states find it again.
    """
    if value is not None:
        made = wrap_parameter(value)
    else:
        made = valueless_parameter(size, getattr(torch, dtype), torch.device(device))
    setattr(made, _MARK, name)
    _live[id(made)] = made
    for attribute, its_value in (attributes or {}).items():
        setattr(made, attribute, its_value)
    return made


def of_the_trainer(value: Any) -> bool:
    """Whether ``make_parameter`` made it: then its values are no part of a hook's state."""
    return isinstance(value, torch.nn.Parameter) and hasattr(value, _MARK)


def trainers_name(value: Any) -> Optional[str]:
    """The name of a parameter of the trainer's, or of one whose ``id()`` this is.

    "": it has no name. None: it is no such value.
    """
    if type(value) is int:
        value = _live.get(value) if value > _LARGE else None
    return getattr(value, _MARK, None) if isinstance(value, torch.nn.Parameter) else None


def by_trainers_name(name: str) -> list[torch.nn.Parameter]:
    """The trainer's parameters of this name: one, unless it has several models or not this."""
    return [parameter for parameter in list(_live.values()) if getattr(parameter, _MARK) == name]


def wrap_parameter(value: torch.Tensor) -> torch.nn.Parameter:
    """An nn.Parameter over ``value``, sharing its memory; one that is a Parameter as it is."""
    if isinstance(value, torch.nn.Parameter):
        return value
    return torch.nn.Parameter(value.detach(), requires_grad=_can_require_grad(value))


def valueless_parameter(
    size: Sequence[int], dtype: torch.dtype, device: torch.device
) -> torch.nn.Parameter:
    """An nn.Parameter of NaN (0 for integers) that takes one element of memory."""
    floating = dtype.is_floating_point or dtype.is_complex
    element = torch.full((), float("nan") if floating else 0.0, dtype=torch.float64)
    # Zero strides: one element of memory, whatever the shape.
    element = element.to(dtype=dtype, device=device).expand(tuple(size))
    return torch.nn.Parameter(element, requires_grad=floating)


def _can_require_grad(tensor: torch.Tensor) -> bool:
    return bool(tensor.dtype.is_floating_point or tensor.dtype.is_complex)


class Parameters(list):  # type: ignore[type-arg]  # list[Parameter] is no base class on 3.9's mypy
    """The trainer's parameters, in its order, which have names.

    The very objects that ``bucket.parameters()`` gives later, so that tables by ``id(parameter)``
    and attributes stay right::

        name = parameters.name_of(bucket.parameters()[0])
        weight = parameters["fc.weight"]
        for name, parameter in parameters.named_parameters(): ...
    """

    def __init__(self, parameters: Iterable[Any], names: Optional[Iterable[str]] = None) -> None:
        """Take parameters and their names, or pairs of both as ``named_parameters()`` gives.

        A parameter without a name is called after its place: ``parameter3``.

        Raises:
            HookLoadError: ``bad_arguments``: two parameters have one name.
        """
        given = list(parameters)
        if names is None:
            pairs = [p if isinstance(p, tuple) else ("", p) for p in given]
        else:
            pairs = list(zip(names, given))
        super().__init__(parameter for _, parameter in pairs)
        self._named: dict[str, torch.nn.Parameter] = {}
        self._names: dict[int, str] = {}
        for i, (name, parameter) in enumerate(pairs):
            unique = name or f"parameter{i}"
            if self._named.setdefault(unique, parameter) is not parameter:
                raise HookLoadError(
                    "bad_arguments",
                    f"two parameters have the name {unique!r}",
                    "give each parameter of the model a name of its own",
                )
            self._names.setdefault(id(parameter), unique)

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Pairs of name and parameter, as of ``torch.nn.Module``: each parameter once."""
        for name, parameter in self._named.items():
            if self._names[id(parameter)] == name:
                yield name, parameter

    def name_of(self, parameter: torch.Tensor) -> str:
        """A parameter's name.

        Raises:
            KeyError: it is none of these.
        """
        try:
            return self._names[id(parameter)]
        except KeyError:
            raise KeyError("not a parameter of the model") from None

    def __getitem__(self, key: Any) -> Any:
        return self._named[key] if isinstance(key, str) else super().__getitem__(key)


def name_parameters(names: Sequence[str], parameters: Sequence[torch.nn.Parameter]) -> Parameters:
    """``Parameters``, for the Go side."""
    return Parameters(parameters, names)
