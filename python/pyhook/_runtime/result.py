"""Turns the value of a hook's future into the flat result for its bucket.

The rules are PyTorch's (torch/csrc/distributed/c10d/python_comm_hook.cpp: parseHookResult;
reducer.cpp: finalize_bucket_dense), except where PyTorch takes wrong data in silence (views with
an offset or strides, short complex halves): those are made right or refused. The Go side asks for
a result that is not simply the bucket's own buffer.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from .._errors import HookContractError
from .bucket_layout import BucketLayout


def parse_value(value: Any, layout: BucketLayout, check_finite: bool = False) -> torch.Tensor:
    """Turn the value of a hook's future into the flat result for the bucket.

    Args:
        value: what ``future.value()`` returned, or what C++ holds: there an exception given to
            ``set_exception`` is a plain value.
        layout: of the bucket that the hook was called with.
        check_finite: refuse NaN and infinity (reads the whole tensor).

    Returns:
        A 1-D, detached, strided, contiguous tensor of ``layout.numel`` elements on the bucket's
        device, of any dtype that the caller can cast to the bucket's. It shares memory with
        ``value`` where that is laid out so, and else is new; nothing writes to ``value``. Surplus
        elements are left off, as in PyTorch. For a sparse bucket it is a detached sparse tensor
        of the bucket's shape.

    Raises:
        HookContractError: see the codes there.
        BaseException: ``value`` itself, if it is an exception.
    """
    tensor = _waited(_one_tensor(value, layout))
    if layout.is_sparse:
        return _sparse_result(tensor, layout)
    _check_kind(tensor, layout)
    _check_real_view(tensor, layout)
    if tensor is not layout.tensor or not layout.intact():
        tensor = _plain(tensor)
    _check_numel(tensor, layout)
    flat = tensor if tensor.dim() == 1 else tensor.reshape(-1)
    if flat.numel() != layout.numel:
        flat = flat[: layout.numel]
    if not flat.is_contiguous():
        flat = flat.contiguous()
    if check_finite:
        _check_finite(flat)
    return flat


def _one_tensor(value: Any, layout: BucketLayout) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, BaseException):
        raise value
    if value is None:
        raise HookContractError(
            "none_value",
            "the hook's future completed with None and not with a tensor",
            "does a `then` callback lack its `return`?",
        )
    if isinstance(value, (list, tuple)):
        if len(value) == 1 and isinstance(value[0], torch.Tensor):
            layout.legacy_names.add("[tensor] result")
            return value[0]
        inside = ", ".join(type(item).__name__ for item in value[:3])
        more = ", ..." if len(value) > 3 else ""
        raise HookContractError(
            "list_value",
            f"the hook's future completed with a {type(value).__name__} of {len(value)} "
            f"({inside}{more}) and not with one tensor",
            "reduce it to one flat tensor in a `then` callback, for example "
            "`.then(lambda fut: torch.stack(fut.value()).mean(0))` after an all_gather",
        )
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise HookContractError(
        "not_tensor",
        f"the hook's future completed with {kind} and not with a tensor",
        _hint_for_value(value),
    )


def _waited(tensor: torch.Tensor) -> torch.Tensor:
    """Wait for the collective if this is the tensor of a functional one (torch 2).

    An AsyncCollectiveTensor (torch/distributed/_functional_collectives.py) waits when something is
    computed from it, as PyTorch's reducer does by copying from it.
    """
    functional = sys.modules.get("torch.distributed._functional_collectives")
    kind = getattr(functional, "AsyncCollectiveTensor", None)
    if kind is None or not isinstance(tensor, kind):
        return tensor
    if hasattr(tensor, "trigger_wait"):
        return tensor.trigger_wait()
    return functional.wait_tensor(tensor.elem)  # type: ignore[union-attr]  # torch 2.0


def _hint_for_value(value: Any) -> str:
    if isinstance(value, torch._C.Future):
        return (
            "a `then` callback returned a Future, which PyTorch does not flatten: "
            "wait() for it in the callback, and return its tensor"
        )
    if type(value).__module__ == "numpy":
        return "use torch.from_numpy(value)"
    if isinstance(value, (int, float, complex)):
        return "the result is the reduced flat buffer, not a number"
    return "the value must be the reduced flat tensor"


def _check_kind(tensor: torch.Tensor, layout: BucketLayout) -> None:
    """Refuse a tensor without plain memory, before anything reads it."""
    if tensor.layout in (torch.sparse_coo, torch.sparse_csr) or tensor.is_sparse:
        raise HookContractError(
            "sparse", "the hook returned a sparse tensor for a dense bucket", "use .to_dense()"
        )
    if tensor.is_meta:
        raise HookContractError(
            "meta", "the hook returned a tensor on the meta device, which holds no data"
        )
    wrapper = type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    if wrapper or tensor.layout != torch.strided or getattr(tensor, "is_nested", False):
        raise HookContractError(
            "layout",
            f"the hook returned a {type(tensor).__name__} of layout {tensor.layout}, "
            "which has no plain memory to read",
            "use .to_dense(), or .to_local() for a DTensor",
        )
    if tensor.is_quantized:
        raise HookContractError("layout", "the hook returned a quantized tensor", "dequantize() it")
    if tensor.device != layout.tensor.device:
        raise HookContractError(
            "device",
            f"the hook returned a tensor on {tensor.device} for a bucket on {layout.tensor.device}",
            "use .to(bucket.buffer().device)",
        )


def _check_real_view(tensor: torch.Tensor, layout: BucketLayout) -> None:
    """Refuse what dist.all_reduce's future holds of complex numbers, for a bucket of real ones."""
    base = tensor._base
    if base is None or not base.is_complex() or tensor.is_complex() or layout.dtype.is_complex:
        return
    if tensor.numel() != 2 * layout.numel or layout.numel == 1:
        return  # 2 elements for 1 may be padding, and the first is right in any case
    raise HookContractError(
        "complex",
        f"the hook returned the real view of {layout.numel} complex numbers for a bucket of "
        f"{layout.dtype}: its first {layout.numel} elements are real and imaginary parts in turn",
        "the future of an all_reduce of complex numbers holds their real view: undo it with "
        "torch.view_as_complex(result), and take .real if that is meant",
    )


def _check_numel(tensor: torch.Tensor, layout: BucketLayout) -> None:
    numel = tensor.numel()
    if numel < layout.numel:
        raise HookContractError(
            "short",
            f"the hook returned {numel} elements (shape {tuple(tensor.shape)}) for a bucket "
            f"of {layout.numel}",
            "return a gradient for every element: decompress before returning",
        )
    complex_bucket = layout.dtype.is_complex
    if tensor.dtype.is_complex and not complex_bucket:
        raise HookContractError(
            "complex",
            f"the hook returned {tensor.dtype} for a bucket of {layout.dtype}: "
            "the imaginary parts would be lost",
            "use torch.view_as_real, or .real if that is meant",
        )
    if complex_bucket and not tensor.dtype.is_complex and layout.numel > 0:
        hint = (
            "undo torch.view_as_real with torch.view_as_complex(result.view(-1, 2))"
            if numel >= 2 * layout.numel
            else "reduce torch.view_as_real(bucket.buffer()), and give view_as_complex of that"
        )
        raise HookContractError(
            "complex",
            f"the hook returned {numel} real elements for a bucket of {layout.numel} "
            f"elements of {layout.dtype}: the imaginary parts would be lost",
            hint,
        )


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return it detached, as a plain torch.Tensor without names or lazy conj or neg."""
    tensor = tensor.detach()
    if type(tensor) is not torch.Tensor:
        tensor = tensor.as_subclass(torch.Tensor)
    if getattr(tensor, "has_names", bool)():
        tensor = tensor.rename(None)
    if tensor.is_conj():
        tensor = tensor.resolve_conj()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    return tensor


def _check_finite(flat: torch.Tensor) -> None:
    if not (flat.dtype.is_floating_point or flat.dtype.is_complex):
        return
    if flat.element_size() == 1:  # fp8 has no isfinite
        flat = flat.to(torch.float32)
    bad = torch.isfinite(flat).logical_not()
    number = int(bad.sum())
    if number:
        first = int(bad.nonzero()[0])
        raise HookContractError(
            "nonfinite",
            f"{number} of {flat.numel()} elements of the hook's result are NaN or infinite, "
            f"the first at {first} ({flat[first].item()})",
        )


def _sparse_result(tensor: torch.Tensor, layout: BucketLayout) -> torch.Tensor:
    wanted = layout.tensor
    if tensor.layout != wanted.layout:
        raise HookContractError(
            "sparse",
            f"the hook returned a {tensor.layout} tensor for a bucket of layout {wanted.layout}",
            "return the sparse gradient itself: bucket.buffer() is it",
        )
    if tensor.shape != wanted.shape:
        raise HookContractError(
            "short",
            f"the hook returned a sparse gradient of shape {tuple(tensor.shape)}, "
            f"not {tuple(wanted.shape)}",
        )
    if tensor.device != wanted.device:
        raise HookContractError(
            "device", f"the hook returned a gradient on {tensor.device}, not {wanted.device}"
        )
    return tensor.detach()
