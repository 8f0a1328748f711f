"""Sparse gradients, such as those of ``nn.Embedding(sparse=True)``.

Such a parameter has a bucket of its own, whose buffer is the sparse COO gradient itself
(torch/csrc/distributed/c10d/reducer.cpp, mark_variable_ready_sparse). Its memory differs from step
to step, so each step has a layout of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .._errors import HookContractError
from .bucket import new_bucket
from .bucket_layout import BucketLayout
from .contract import require_future
from .grad_mode import GradOff
from .result import parse_value
from .wrap import unwrapped

_DENSE_ONLY = ("powerSGD_hook", "batched_powerSGD_hook")
"""PyTorch's hooks that take ``bucket.gradients()``, which is empty here, for the whole bucket. From
``start_powerSGD_iter`` on they leave a sparse gradient unreduced in silence, or raise."""


def sparse_layout(
    indices: torch.Tensor,
    values: torch.Tensor,
    size: Sequence[int],
    index: int,
    count: int,
    parameter: torch.Tensor,
) -> BucketLayout:
    """Describe the bucket of one sparse gradient over the trainer's own indices and values.

    Args:
        indices: int64, of shape [sparse dimensions, nnz], within ``size``, as the Go side checks.
        values: of shape [nnz, the other dimensions...].
    """
    # Without the choice torch >= 2.14 warns.
    choice = {} if torch.__version__.startswith("1.") else {"check_invariants": False}
    tensor = torch.sparse_coo_tensor(indices, values, tuple(size), **choice)
    layout = BucketLayout(tensor, index, count, [], [], [], params=[parameter])
    layout._address = int(values.data_ptr())
    return layout


def run_sparse_hook(hook: Any, state: Any, layout: BucketLayout) -> Any:
    """Call a hook, or a chain around it, and return its future.

    Raises:
        HookContractError: as ``require_future``; ``sparse``: the hook does not reduce sparse
            gradients.
    """
    for inner in hooks_inside(unwrapped(hook)):
        if getattr(inner, "__name__", "") in _DENSE_ONLY:
            raise HookContractError(
                "sparse",
                f"{inner.__name__} does not reduce sparse gradients: it looks at "
                "bucket.gradients(), which is empty for them, and leaves each rank with its own",
                "use a hook that does (allreduce, post_localsgd), wrap this one in a hook that "
                "all-reduces buckets whose buffer is sparse, or make the gradient dense",
            )
    with GradOff():
        return require_future(hook(state, new_bucket(layout)))


def hooks_inside(hook: Any) -> Iterator[Any]:
    """Yield the hook and those inside PyTorch's wrappers, as far as they are PyTorch's."""
    if str(getattr(hook, "__module__", "")).startswith("torch.distributed."):
        yield hook
        for cell in getattr(hook, "__closure__", None) or ():
            if callable(cell.cell_contents):
                yield from hooks_inside(cell.cell_contents)


def sparse_parts(value: Any, layout: BucketLayout) -> tuple[torch.Tensor, torch.Tensor]:
    """Return indices and values of a hook's result, coalesced and of the bucket's dtype.

    They are contiguous and share no memory with the gradient that the hook was given.

    Raises:
        HookContractError: see ``parse_value``; ``sparse``: other sparse dimensions.
    """
    tensor = parse_value(value, layout)
    wanted = layout.tensor
    if tensor._nnz() == 0:  # torch forgets its sparse dimensions
        dims = wanted.sparse_dim()
        shape = (0, *wanted.shape[dims:])
        return torch.empty(dims, 0, dtype=torch.int64), torch.empty(shape, dtype=wanted.dtype)
    if tensor.sparse_dim() != wanted.sparse_dim():
        raise HookContractError(
            "sparse",
            f"the hook returned a gradient with {tensor.sparse_dim()} sparse dimensions, "
            f"not {wanted.sparse_dim()}",
            "keep the layout of bucket.buffer()",
        )
    if tensor.dtype.is_complex != wanted.dtype.is_complex:
        raise HookContractError(
            "complex",
            f"the hook returned {tensor.dtype} for a bucket of {wanted.dtype}: "
            "the imaginary parts would be lost",
        )
    # Cast first, as bucket.gradients.copy_(result) does, which does not coalesce.
    tensor = tensor.to(wanted.dtype).coalesce()
    indices, values = tensor.indices().contiguous(), tensor.values().contiguous()
    if layout._address != 0 and values.data_ptr() == layout._address:
        indices, values = indices.clone(), values.clone()
    return indices, values
