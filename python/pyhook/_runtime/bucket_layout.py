"""What persists of a bucket over steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Optional

import torch

from .parameters import valueless_parameter, wrap_parameter

_VIEW_MARK = "_pyhook_grad_view"
"""Attribute on tensors that pyhook put into ``parameter.grad``."""


class BucketLayout:
    """What persists of a bucket over steps, while its memory is the same.

    Attributes:
        tensor: the flat buffer over the trainer's memory, 1-D, not requiring grad. It is
            borrowed: whoever made the layout keeps the memory alive. For a bucket of one sparse
            parameter it is the sparse COO gradient.
        index, count: 0-based position in the order of reduction; number of buckets in a step.
        offsets, lengths, sizes: element offset, element count and shape of each gradient;
            empty for a sparse bucket.
        numel, dtype: of ``tensor`` as given: a hook can resize it, or give it other data.
        legacy_names: names of torch <= 1.9 and result forms that a hook used, for reports.
    """

    def __init__(
        self,
        tensor: torch.Tensor,
        index: int,
        count: int,
        offsets: Sequence[int],
        lengths: Sequence[int],
        sizes: Sequence[Sequence[int]],
        params: Optional[Sequence[torch.Tensor]] = None,
    ) -> None:
        """Describe a bucket over ``tensor``.

        Args:
            params: the trainer's parameter values, one a gradient. An nn.Parameter is used as it
                is, so give the same ones when the memory moves; any other tensor is wrapped,
                sharing memory. Without them, parameters are made when a hook first asks, by
                ``valueless_parameter``: zeros would make a hook that reads weights wrong in
                silence.

        Raises:
            ValueError: the parts do not fit the tensor or each other.
        """
        self.tensor, self.index, self.count = tensor, index, count
        self.offsets, self.lengths = tuple(offsets), tuple(lengths)
        self.sizes = tuple(tuple(size) for size in sizes)
        self.numel, self.dtype = int(tensor.numel()), tensor.dtype
        self.legacy_names: set[str] = set()
        self._address = 0 if self.is_sparse else int(tensor.data_ptr())
        self._views: Optional[list[tuple[torch.Tensor, int]]] = None
        self._grads: Optional[list[torch.Tensor]] = None
        self._grads_bound = False
        self._given = params
        self._parameters: Optional[list[torch.nn.Parameter]] = None
        self._check()
        if any(
            isinstance(p, torch.nn.Parameter) and hasattr(p.grad, _VIEW_MARK) for p in params or ()
        ):
            self.parameters()  # a hook may have kept them: .grad shows this memory now

    def _check(self) -> None:
        gradients = len(self.offsets)
        if not len(self.lengths) == len(self.sizes) == gradients:
            raise ValueError(
                f"a bucket needs as many offsets ({gradients}) as lengths ({len(self.lengths)}) "
                f"and sizes ({len(self.sizes)})"
            )
        if not 0 <= self.index < self.count:
            raise ValueError(f"bucket index {self.index} is not in 0..{self.count - 1}")
        expected = 1 if self.is_sparse else gradients
        if self._given is not None and len(self._given) != expected:
            raise ValueError(f"{len(self._given)} parameters were given for {expected} gradients")
        if self.is_sparse:
            return
        if self.tensor.dim() != 1 or not self.tensor.is_contiguous():
            shape = tuple(self.tensor.shape)
            raise ValueError(f"a bucket's buffer is 1-D and contiguous, not of shape {shape}")
        for i, (offset, length, size) in enumerate(zip(self.offsets, self.lengths, self.sizes)):
            if math.prod(size) != length or offset < 0 or offset + length > self.numel:
                raise ValueError(
                    f"gradient {i} of shape {size}, {length} elements at offset {offset}, "
                    f"does not fit its bucket of {self.numel} elements"
                )

    @property
    def is_sparse(self) -> bool:
        """Whether the buffer is a sparse gradient (then there are no views)."""
        return bool(self.tensor.layout != torch.strided)

    def intact(self) -> bool:
        """Return whether the buffer still is what it was when the layout was made.

        It is not after a hook resized it, gave it other memory in place (``buffer.set_``,
        ``buffer.data = ...``) or made it require grad: make a new layout then. The Go side asks
        the same in C (cbridge/bucket_call.c: unchanged).
        """
        tensor = self.tensor
        return self.is_sparse or bool(
            tensor.data_ptr() == self._address
            and tensor.dim() == 1
            and tensor.numel() == self.numel
            and tensor.is_contiguous()
            and tensor.dtype == self.dtype
            and not tensor.requires_grad
            and not getattr(tensor, "has_names", bool)()
        )

    def used_legacy_names(self) -> list[str]:
        """Return ``legacy_names`` for the Go side."""
        return list(self.legacy_names)

    def views_of(self, buffer: torch.Tensor) -> list[torch.Tensor]:
        """``buffer[offset:offset + length].view(size)`` of each (comm.cpp getGradients)."""
        return [
            buffer[offset : offset + length].view(size)
            for offset, length, size in zip(self.offsets, self.lengths, self.sizes)
        ]

    def gradients(self) -> list[torch.Tensor]:
        """Return views of the base buffer, in a new list. See ``Bucket.gradients``.

        The views are kept: making one costs 2 to 4 us, checking that the hook left it alone
        (``g.t_()``, ``g.requires_grad_()``, ``g.data = ...``) 0.3 us. A changed one is made anew.
        """
        if self._views is None:
            self._views = [(view, view.data_ptr()) for view in self.views_of(self.tensor)]
        for i, (view, address) in enumerate(self._views):
            if (
                view.shape != self.sizes[i]
                or view.data_ptr() != address
                or view.dtype != self.tensor.dtype
                or view.requires_grad
                or not view.is_contiguous()
            ):
                made = self.views_of(self.tensor)[i]
                self._views[i] = (made, made.data_ptr())
        return [view for view, _ in self._views]

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters of the bucket, in a new list. See ``Bucket.parameters``."""
        if self._parameters is None:
            self._parameters = self._make_parameters()
        self._bind_grads(self._parameters)
        return list(self._parameters)

    def _make_parameters(self) -> list[torch.nn.Parameter]:
        if self._given is not None:
            return [wrap_parameter(value) for value in self._given]
        tensor = self.tensor
        sizes = [tuple(tensor.shape)] if self.is_sparse else self.sizes
        return [valueless_parameter(size, tensor.dtype, tensor.device) for size in sizes]

    def _bind_grads(self, parameters: list[torch.nn.Parameter]) -> None:
        """Make each ``.grad`` a view of the bucket, as gradient_as_bucket_view does.

        The first time always (the bucket holds the gradient of this step); later only where it
        is missing, or is a view that pyhook made for memory used earlier, so that a ``.grad``
        that the hook set stays.
        """
        if self._grads is None and self.is_sparse:
            self._grads = [self.tensor]
        elif self._grads is None:
            views = self.views_of(self.tensor)
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


def _grad_of(parameter: torch.nn.Parameter, view: torch.Tensor) -> torch.Tensor:
    """A view of the bucket as the parameter's gradient: complex, where the bucket is real."""
    if not parameter.is_complex() or view.is_complex():
        return view
    pairs: torch.Tensor = torch.view_as_complex(view)
    return pairs
