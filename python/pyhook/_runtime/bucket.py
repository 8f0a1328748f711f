"""The gradient bucket that hooks see.

It mirrors ``c10d::GradBucket`` (torch/csrc/distributed/c10d/comm.hpp) over memory that the Go
side owns. A ``BucketLayout`` lives as long as the memory stays where it is; a ``Bucket`` is made
for one hook call. PyTorch gives each call a copy of its bucket (pybind11 copies the C++ struct),
so what a hook does to one, ``set_buffer`` above all, does not show in the next, and a hook may
keep it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.distributed import GradBucket

from .bucket_layout import BucketLayout


class BucketMethods:
    """The methods of a bucket, over two attributes that a subclass stores.

    The Go side makes a subclass in C for the buckets of its calls (cbridge/bucket_object.c), with
    a ``buffer`` of its own. ``isinstance`` and ``__class__`` say ``Bucket`` of those too.
    """

    __slots__ = ()

    _layout: BucketLayout
    _buffer: torch.Tensor

    def index(self) -> int:
        """0-based position of the bucket in the order of reduction."""
        return self._layout.index

    def buffer(self) -> torch.Tensor:
        """The flat 1-D buffer over the trainer's memory, or what ``set_buffer`` was given."""
        return self._buffer

    def gradients(self) -> list[torch.Tensor]:
        """A new list of views over the *current* buffer, shaped as the parameters.

        They are row-major whatever the parameter's own strides are, as in PyTorch. A sparse
        bucket has none. The bucket of complex parameters is real: a view has both parts of each
        number, in a last dimension of 2. (Those of torch 2.15's Reducer have the parameter's
        shape, and so half the bucket.)
        """
        layout = self._layout
        if self._buffer is layout.tensor:
            return layout.gradients()
        return layout.views_of(self._buffer)

    def parameters(self) -> list[torch.nn.Parameter]:
        """The model's parameters, in the order of ``gradients()``.

        They are the same objects at every step, so that they may be dict keys; ``.grad`` of each
        is a view of the trainer's buffer. ``BucketLayout`` says what they are where the trainer
        gave no values.
        """
        return self._layout.parameters()

    def is_last(self) -> bool:
        """Whether this is the last bucket of the step."""
        return self._layout.index == self._layout.count - 1

    def set_buffer(self, buffer: torch.Tensor) -> None:
        """Replace the buffer of this object, and leave the trainer's memory as it is.

        Shape and dtype are not checked, as in PyTorch: wrappers put an fp16 copy here for the
        hook that they wrap.
        """
        self._buffer = buffer

    # The names of torch 1.7 to 1.9. `pyhook check` reports those that a hook used.

    def get_index(self) -> int:
        self._layout.legacy_names.add("get_index")
        return self.index()

    def get_tensor(self) -> torch.Tensor:
        self._layout.legacy_names.add("get_tensor")
        return self._buffer

    def get_tensors(self) -> list[torch.Tensor]:
        self._layout.legacy_names.add("get_tensors")
        return [self._buffer]

    def get_per_parameter_tensors(self) -> list[torch.Tensor]:
        self._layout.legacy_names.add("get_per_parameter_tensors")
        return self.gradients()

    def is_the_last_bucket_to_allreduce(self) -> bool:
        self._layout.legacy_names.add("is_the_last_bucket_to_allreduce")
        return self.is_last()

    def set_tensor(self, tensor: torch.Tensor, index: int = 0) -> None:
        self._layout.legacy_names.add("set_tensor")
        self._buffer = tensor

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse copies and pickles, as PyTorch's bucket does."""
        raise TypeError("cannot pickle 'pyhook.Bucket' object")

    def __repr__(self) -> str:
        layout, buffer = self._layout, self._buffer
        other = "" if buffer is layout.tensor else ", set_buffer was called"
        return (
            f"<pyhook.Bucket {layout.index + 1} of {layout.count}: "
            f"{len(layout.sizes)} gradients, {buffer.numel()} x {buffer.dtype} "
            f"on {buffer.device}{other}>"
        )


class Bucket(BucketMethods, GradBucket):  # type: ignore[misc]  # torch has no stubs for all versions
    """One bucket of one step, as a hook sees it: ``torch.distributed.GradBucket``.

    The buckets that hooks get say that this is their class, for ``isinstance`` and
    ``__class__``, but are no instances of it. PyTorch's class has no constructor: an instance by
    ``__new__`` would lack its C++ half, and C++'s own methods (``dist.GradBucket.buffer(bucket)``)
    would read memory that nobody set. As it is they refuse a bucket of pyhook's with a TypeError,
    and handing one to C++ (``reducer._run_allreduce_hook(bucket)``) does not work.
    """

    __slots__ = ("_buffer", "_layout")

    def __new__(cls) -> Bucket:
        """Refuse: a bucket is made by the trainer, or by ``pyhook.testing.bucket``."""
        raise TypeError(f"{cls.__module__}.{cls.__qualname__}: No constructor defined!")


class _BucketObject(BucketMethods):
    """What ``new_bucket`` makes; the Go side has the same in C (cbridge/bucket_object.c)."""

    __slots__ = ("__weakref__", "_buffer", "_layout")

    @property  # type: ignore[misc]  # the class of an object can be set, this cannot
    def __class__(self) -> type[Bucket]:  # type: ignore[override]
        """Bucket, which this stands for."""
        return Bucket


_BucketObject.__name__ = _BucketObject.__qualname__ = "Bucket"


def new_bucket(layout: BucketLayout) -> Bucket:
    """A new bucket object over ``layout``, for one hook call."""
    bucket = _BucketObject()
    bucket._layout = layout
    bucket._buffer = layout.tensor
    return cast(Bucket, bucket)
