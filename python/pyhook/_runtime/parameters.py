"""The nn.Parameters that hooks see, over the trainer's values or without any."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Optional

import torch

from .._errors import HookLoadError

_MARK = "_pyhook_of_the_trainer"
_LARGE = 1 << 16  # a smaller number is no object's address

_live: weakref.WeakValueDictionary[int, torch.nn.Parameter] = weakref.WeakValueDictionary()
"""The parameters that ``make_parameter`` made, by id."""


def make_parameter(
    value: Optional[torch.Tensor],
    size: Sequence[int],
    dtype: str,
    device: str = "cpu",
    attributes: Optional[dict[str, Any]] = None,
    name: str = "",
) -> torch.nn.Parameter:
    """Make the one nn.Parameter of a trainer's parameter, for every layout that it is in.

    It shares the memory of ``value``, or has none (``valueless_parameter``). ``attributes`` are set
    on it. Saved states find it by its ``name``.
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
    """Return whether ``make_parameter`` made it: a hook's state does not own its values."""
    return isinstance(value, torch.nn.Parameter) and hasattr(value, _MARK)


def trainers_name(value: Any) -> Optional[str]:
    """Return the name ("" if it has none) of a trainer's parameter, given that or its ``id()``.

    None for any other value.
    """
    if type(value) is int:
        value = _live.get(value) if value > _LARGE else None
    return getattr(value, _MARK, None) if isinstance(value, torch.nn.Parameter) else None


def by_trainers_name(name: str) -> list[torch.nn.Parameter]:
    """Return the trainer's parameters of this name: several if it has several models."""
    return [parameter for parameter in list(_live.values()) if getattr(parameter, _MARK) == name]


def wrap_parameter(value: torch.Tensor) -> torch.nn.Parameter:
    """Return an nn.Parameter that shares the memory of ``value``, or ``value`` if it is one."""
    if isinstance(value, torch.nn.Parameter):
        return value
    floating = value.dtype.is_floating_point or value.dtype.is_complex
    return torch.nn.Parameter(value.detach(), requires_grad=floating)


def valueless_parameter(
    size: Sequence[int], dtype: torch.dtype, device: torch.device
) -> torch.nn.Parameter:
    """Return an nn.Parameter of NaN (0 for integers), not writable, with one element of memory."""
    floating = dtype.is_floating_point or dtype.is_complex
    element = torch.full((), float("nan") if floating else 0.0, dtype=torch.float64)
    # Zero strides: one element of memory, whatever the shape.
    element = element.to(dtype=dtype, device=device).expand(tuple(size))
    return torch.nn.Parameter(element, requires_grad=floating)


class Parameters(list):  # type: ignore[type-arg]  # list[Parameter] is no base class on 3.9's mypy
    """The trainer's parameters, in its order, with their names.

    They are the very objects that ``bucket.parameters()`` returns later, so that tables by
    ``id(parameter)`` and attributes stay right::

        name = parameters.name_of(bucket.parameters()[0])
        weight = parameters["fc.weight"]
        for name, parameter in parameters.named_parameters(): ...
    """

    def __init__(self, parameters: Iterable[Any], names: Optional[Iterable[str]] = None) -> None:
        """Take parameters and their names, or the pairs that ``named_parameters()`` returns.

        A parameter without a name is called by its number: ``parameter3``.

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
        """Yield pairs of name and parameter, each parameter once, as ``torch.nn.Module`` does."""
        for name, parameter in self._named.items():
            if self._names[id(parameter)] == name:
                yield name, parameter

    def name_of(self, parameter: torch.Tensor) -> str:
        """Return a parameter's name.

        Raises:
            KeyError: it is not among these.
        """
        try:
            return self._names[id(parameter)]
        except KeyError:
            raise KeyError("not a parameter of the model") from None

    def __getitem__(self, key: Any) -> Any:
        return self._named[key] if isinstance(key, str) else super().__getitem__(key)
