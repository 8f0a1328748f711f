"""How this torch's DistributedDataParallel treats gradients of complex parameters."""

from __future__ import annotations

import functools
from typing import Any, Optional

import torch
import torch.distributed as dist

from .._errors import HookContractError
from .._meeting.torch_build import gloo_of_one, torch_version
from .sparse import hooks_inside

_REAL_ONLY = ("fp16_compress", "bf16_compress")
"""PyTorch's hooks that cast a complex bucket to real, and copy that back into it."""


def check_complex(hook: Any) -> None:
    """Refuse a hook that loses the imaginary parts of a complex bucket.

    Package ddp gives hooks real buckets; a trainer may make a complex one itself.

    Raises:
        HookContractError: ``complex``.
    """
    for inner in hooks_inside(hook):
        name = str(getattr(inner, "__name__", ""))
        if name.startswith(_REAL_ONLY):
            raise HookContractError(
                "complex",
                f"{name} casts complex gradients to real: the imaginary parts would be lost",
                "make the bucket of torch.view_as_real's parts: a real buffer of twice the length",
            )


@functools.cache
def complex_refusal() -> Optional[str]:
    """Return why DDP of this torch cannot reduce complex parameters, or None.

    torch 2.14 and 2.15 give hooks a real bucket with both parts of each number. 1.13 and 2.6 give
    a complex one, in which hooks that compress or all-reduce lose the imaginary parts in silence;
    1.13 cannot even make DDP on gloo ("Invalid scalar type"). This tries torch's Reducer on a
    group of one.
    """
    dtype: Any
    try:
        dtype = _bucket_dtype()
    except Exception:  # another constructor: judge by the versions tried
        dtype = torch.float32 if torch_version() >= (2, 14) else torch.complex64
    if not dtype.is_complex:
        return None
    return (
        f"DistributedDataParallel of torch {torch.__version__} cannot reduce complex parameters: "
        "its buckets would be complex, and hooks lose imaginary parts in them"
    )


def _bucket_dtype() -> torch.dtype:
    """Return the dtype of the bucket of a complex64 parameter."""
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.complex64))
    seen: list[torch.dtype] = []

    def hook(state: Any, bucket: Any) -> Any:
        seen.append(bucket.buffer().dtype)
        future: Any = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    hook.__annotations__ = {}  # these are strings, which torch refuses
    reducer = dist.Reducer([parameter], [[0]], [1 << 20], _group_of_one(), [False])
    dist._register_comm_hook(reducer, None, hook)
    reducer.prepare_for_backward([])
    with torch.enable_grad():
        torch.autograd.backward([parameter], [torch.zeros_like(parameter)])
    return seen[0]


def _group_of_one() -> Any:
    gloo = gloo_of_one()
    if isinstance(gloo, dist.ProcessGroup):  # torch 1
        return gloo
    group = dist.ProcessGroup(dist.HashStore(), 0, 1)
    kind = dist.ProcessGroup.BackendType.GLOO
    group._set_default_backend(kind)
    group._register_backend(torch.device("cpu"), kind, gloo)
    return group
