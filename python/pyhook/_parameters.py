"""The nn.Parameters that hooks see, over the trainer's values or without any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from . import _torch  # noqa: F401  (first: a clear error when torch is missing)

# isort: split
import torch


def make_parameter(
    value: Optional[torch.Tensor], size: Sequence[int], dtype: str, device: str = "cpu"
) -> torch.nn.Parameter:
    """The one nn.Parameter of a trainer's parameter, for every layout that it is in.

    Over ``value``, sharing its memory; without a value as ``new_layout`` says.
    """
    if value is not None:
        return wrap_parameter(value)
    return valueless_parameter(size, getattr(torch, dtype), torch.device(device))


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
