"""What persists of a bucket over steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch

from .parameters import valueless_parameter, wrap_parameter

_VIEW_MARK = "_pyhook_grad_view"
"""Attribute on tensors that pyhook put into ``parameter.grad``."""


class BucketLayout:
    """What persists of a bucket over steps, while its memory is the same.

    Attributes:
        tensor: the flat buffer over the trainer's memory, 1-D, not requiring
            grad; borrowed: whoever made the layout keeps the memory alive. A
            hook that returns this very object is the fast path. A sparse COO
            gradient for a bucket of one sparse parameter.
        index: 0-based position in the order of reduction.
        count: number of buckets in a step.
        offsets, lengths: element offset and element count of each gradient;
            empty for a sparse bucket.
        sizes: shape of each gradient.
        names: parameter names, or empty.
        numel, dtype: of ``tensor`` as given (a hook can resize the tensor, and
            give it other data).
        sparse_indices: optional tensor, as GradBucket of torch >= 2 holds.
        legacy_names: torch <= 1.9 method names and result forms that a hook
            used: reported, so that a user learns of them.
    """

    __slots__ = (
        "_address",
        "_grads",
        "_grads_bound",
        "_parameters",
        "_templates",
        "_views",
        "count",
        "dtype",
        "index",
        "legacy_names",
        "lengths",
        "names",
        "numel",
        "offsets",
        "sizes",
        "sparse_indices",
        "tensor",
    )

    tensor: torch.Tensor
    dtype: torch.dtype
    index: int
    count: int
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    numel: int
    sparse_indices: Optional[torch.Tensor]
    legacy_names: set[str]
    _address: int
    _views: Optional[list[tuple[torch.Tensor, int]]]
    _grads: Optional[list[torch.Tensor]]
    _grads_bound: bool
    _parameters: Optional[list[torch.nn.Parameter]]
    _templates: Optional[Sequence[torch.Tensor]]

    @property
    def is_sparse(self) -> bool:
        """Whether the buffer is a sparse gradient (then there are no views)."""
        return bool(self.tensor.layout != torch.strided)

    def intact(self) -> bool:
        """Whether the buffer still is what it was when the layout was made.

        False after a hook resized it or gave it other memory in place
        (``buffer.resize_``, ``buffer.set_``, ``buffer.data = ...``), or made it
        require grad: make a new layout then. The Go side asks the same in C
        (cbridge/bucket_call.c: unchanged).
        """
        if self.is_sparse:
            return True
        tensor = self.tensor
        return bool(
            tensor.data_ptr() == self._address
            and tensor.dim() == 1
            and tensor.numel() == self.numel
            and tensor.is_contiguous()
            and tensor.dtype == self.dtype
            and not tensor.requires_grad
            and not getattr(tensor, "has_names", bool)()
        )

    def gradients(self) -> list[torch.Tensor]:
        """Views of the base buffer, in a new list. See ``Bucket.gradients``.

        The views are kept: making one costs 2 to 4 us, checking that the hook
        left it alone (``g.t_()``, ``g.requires_grad_()``, ``g.data = ...``)
        0.3 us. One that was changed is made anew.
        """
        kept = self._views
        if kept is None:
            made = views_of(self.tensor, self.offsets, self.lengths, self.sizes)
            self._views = [(view, view.data_ptr()) for view in made]
            return made
        result = []
        for i, (view, address) in enumerate(kept):
            if (
                view.shape != self.sizes[i]
                or view.data_ptr() != address
                or view.dtype != self.tensor.dtype
                or view.requires_grad
                or not view.is_contiguous()
            ):
                remade = self._view(i)
                kept[i] = (remade, remade.data_ptr())
            result.append(kept[i][0])
        return result

    def _view(self, i: int) -> torch.Tensor:
        return views_of(
            self.tensor, self.offsets[i : i + 1], self.lengths[i : i + 1], self.sizes[i : i + 1]
        )[0]

    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters of the bucket, in a new list. See ``Bucket.parameters``."""
        if self._parameters is None:
            self._parameters = _make_parameters(self)
        self._bind_grads(self._parameters)
        return list(self._parameters)

    def _bind_grads(self, parameters: list[torch.nn.Parameter]) -> None:
        """Make each ``.grad`` a view of the bucket, as gradient_as_bucket_view does.

        The first time always (the bucket holds the gradient of this step);
        later only where it is missing, or is a view that pyhook made for
        memory used earlier, so that a ``.grad`` that the hook set stays.
        """
        if self.is_sparse:
            for parameter in parameters:
                if parameter.grad is None or not self._grads_bound:
                    parameter.grad = self.tensor
            self._grads_bound = True
            return
        if self._grads is None:
            views = views_of(self.tensor, self.offsets, self.lengths, self.sizes)
            self._grads = [_grad_of(parameter, v) for parameter, v in zip(parameters, views)]
            for grad in self._grads:
                setattr(grad, _VIEW_MARK, True)
        for parameter, grad in zip(parameters, self._grads):
            current = parameter.grad
            if current is grad:
                continue
            if current is None or not self._grads_bound or hasattr(current, _VIEW_MARK):
                parameter.grad = grad
        self._grads_bound = True


def new_layout(
    tensor: torch.Tensor,
    index: int,
    count: int,
    offsets: Sequence[int],
    lengths: Sequence[int],
    sizes: Sequence[Sequence[int]],
    names: Optional[Sequence[str]] = None,
    params: Optional[Sequence[torch.Tensor]] = None,
    sparse_indices: Optional[torch.Tensor] = None,
) -> BucketLayout:
    """Describe a bucket over ``tensor``, which is borrowed.

    Args:
        tensor: flat 1-D contiguous buffer (or one sparse gradient).
        index, count: position of the bucket, and number of buckets.
        offsets, lengths, sizes: of each gradient, in elements.
        names: names of the parameters, for messages.
        params: the trainer's parameter values, one a gradient. An nn.Parameter
            is used as it is, so give the same ones when the memory moves; any
            other tensor is wrapped, sharing memory. Without them, parameters
            are made when a hook first asks: right shape, dtype, device and
            requires_grad, and one element of memory each. Their values are NaN
            (0 for integers) and writing to them fails: pyhook has no values to
            show, and zeros would make a hook that reads weights wrong in
            silence.
        sparse_indices: kept for hooks of sparse gradients.

    Raises:
        ValueError: the parts do not fit the tensor or each other.
    """
    layout = BucketLayout()
    layout.tensor = tensor
    layout.index, layout.count = int(index), int(count)
    layout.offsets = tuple(int(offset) for offset in offsets)
    layout.lengths = tuple(int(length) for length in lengths)
    layout.sizes = tuple(tuple(int(n) for n in size) for size in sizes)
    layout.names = tuple(names or ())
    layout.numel = int(tensor.numel())
    layout.sparse_indices = sparse_indices
    layout.legacy_names = set()
    layout._views = layout._grads = layout._parameters = None
    layout._grads_bound = False
    layout._templates = params
    layout.dtype = tensor.dtype
    layout._address = 0 if layout.is_sparse else int(tensor.data_ptr())
    _check_layout(layout)
    if any(isinstance(p, torch.nn.Parameter) and hasattr(p.grad, _VIEW_MARK) for p in params or ()):
        layout.parameters()  # a hook may have kept them: .grad shows this memory now
    return layout


def _check_layout(layout: BucketLayout) -> None:
    gradients = len(layout.offsets)
    if not len(layout.lengths) == len(layout.sizes) == gradients:
        raise ValueError(
            f"a bucket needs as many offsets ({gradients}) as lengths "
            f"({len(layout.lengths)}) and sizes ({len(layout.sizes)})"
        )
    if not 0 <= layout.index < layout.count:
        raise ValueError(f"bucket index {layout.index} is not in 0..{layout.count - 1}")
    given = layout._templates
    expected = 1 if layout.is_sparse else gradients
    if given is not None and len(given) != expected:
        raise ValueError(f"{len(given)} parameters were given for {expected} gradients")
    if layout.is_sparse:
        return
    if layout.tensor.dim() != 1 or not layout.tensor.is_contiguous():
        raise ValueError(
            f"a bucket's buffer is 1-D and contiguous, not of shape {tuple(layout.tensor.shape)}"
        )
    for i, (offset, length, size) in enumerate(zip(layout.offsets, layout.lengths, layout.sizes)):
        product = 1
        for n in size:
            product *= n
        if product != length or offset < 0 or offset + length > layout.numel:
            name = f" ({layout.names[i]})" if i < len(layout.names) else ""
            raise ValueError(
                f"gradient {i}{name} of shape {size}, {length} elements at offset {offset}, "
                f"does not fit its bucket of {layout.numel} elements"
            )


def views_of(
    buffer: torch.Tensor,
    offsets: Sequence[int],
    lengths: Sequence[int],
    sizes: Sequence[tuple[int, ...]],
) -> list[torch.Tensor]:
    """``buffer[offset:offset + length].view(size)`` of each (comm.cpp getGradients)."""
    return [
        buffer[offset : offset + length].view(size)
        for offset, length, size in zip(offsets, lengths, sizes)
    ]


def _grad_of(parameter: torch.nn.Parameter, view: torch.Tensor) -> torch.Tensor:
    """A view of the bucket as the parameter's gradient: complex, where the bucket is real."""
    if not parameter.is_complex() or view.is_complex():
        return view
    pairs: torch.Tensor = torch.view_as_complex(view)
    return pairs


def _make_parameters(layout: BucketLayout) -> list[torch.nn.Parameter]:
    given = layout._templates
    if given is not None:
        return [wrap_parameter(value) for value in given]
    tensor = layout.tensor
    sizes = [tuple(tensor.shape)] if layout.is_sparse else layout.sizes
    return [valueless_parameter(size, tensor.dtype, tensor.device) for size in sizes]
