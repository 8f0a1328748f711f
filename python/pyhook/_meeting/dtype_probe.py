"""Which dtypes a process group can all-reduce."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import torch
import torch.distributed as dist

from .join import describe_group
from .torch_build import gloo_of_one

PROBED = (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
    "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip


def probe_allreduce_dtypes(group: Any, dtypes: Sequence[str] = PROBED) -> dict[str, Optional[str]]:
    """All-reduce each dtype over ``group``, and return for each None or the error's text.

    Every rank calls it with the same arguments, and gets the same set of dtypes that work. A dtype
    that one rank cannot reduce at all (another torch build) would leave the others waiting, so each
    rank first tries it on a group of its own (gloo), the ranks agree by an int32 all-reduce, and
    together they try only what all of them can do.

    Args:
        dtypes: names as in ``torch.<name>``. Those that torch lacks are left out.
    """
    backend = describe_group(group)["backend"]
    device = "cuda" if "nccl" in backend and "gloo" not in backend else "cpu"
    alone = gloo_of_one() if "gloo" in backend else None
    errors = [_try_alone(name, alone) for name in dtypes]
    agreed = _agree([error is None for error in errors], group, device)
    for i, name in enumerate(dtypes):
        if agreed[i]:
            errors[i] = _try_together(name, group, device)
        elif errors[i] is None:
            errors[i] = "another rank cannot all-reduce this dtype"
    agreed = _agree([error is None for error in errors], group, device)
    result = {}
    for name, error, works in zip(dtypes, errors, agreed):
        if not hasattr(torch, name):
            continue
        result[name] = None if works else error or "the all-reduce failed on another rank"
    return result


def _agree(mine: list[bool], group: Any, device: Any) -> list[bool]:
    flags = torch.tensor([int(flag) for flag in mine], dtype=torch.int32, device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MIN, group=group)
    return [bool(flag) for flag in flags.tolist()]


def _try_alone(name: str, alone: Optional[Any]) -> Optional[str]:
    dtype = getattr(torch, name, None)
    if dtype is None:
        return f"torch has no {name}"
    if alone is None:
        return None  # no cheap way: only the attempt with all ranks shows it
    try:
        tensor = torch.zeros(2).to(dtype)
        # As dist.all_reduce does (distributed_c10d.py): complex goes as reals.
        alone.allreduce([torch.view_as_real(tensor) if dtype.is_complex else tensor]).wait()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _try_together(name: str, group: Any, device: Any) -> Optional[str]:
    try:
        tensor = torch.ones(2).to(device=device, dtype=getattr(torch, name))
        dist.all_reduce(tensor, group=group)
        got = complex(tensor[0].to(torch.complex128).item())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    # A sum of ones, or True for bool. Small floats round a large world's size.
    expected = 1 if name == "bool" else int(group.size())
    if name.startswith(("float", "bfloat", "complex")) and abs(got - expected) <= 0.1 * expected:
        return None
    if name in ("int8", "uint8") and int(got.real) % 256 == expected % 256:
        return None
    return None if got == expected else f"the sum of {group.size()} ones came out as {got}"
