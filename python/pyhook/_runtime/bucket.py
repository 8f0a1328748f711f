"""The gradient bucket that hooks see.

Mirrors ``c10d::GradBucket`` (torch/csrc/distributed/c10d/comm.hpp) over memory
that somebody else, the Go side, owns. Two objects share the work:

* ``BucketLayout`` is heavy and lives as long as the memory stays where it is.
* ``Bucket`` is a shell made for one hook call. PyTorch hands a fresh copy of
  its bucket to each call (pybind11 copies the C++ struct), so what a hook does
  to one, ``set_buffer`` above all, never shows in the next, and a hook may keep
  it for as long as it likes.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.distributed import GradBucket

from .bucket_layout import BucketLayout, views_of


class BucketMethods:
    """All that a bucket does, over two attributes that a subclass stores.

    ``Bucket`` stores them in slots. The Go side makes a type in C for the
    buckets of its calls, which stores them in C (cbridge/bucket_object.c) and has a
    ``buffer`` of its own; for ``isinstance`` and ``__class__`` those are
    ``Bucket`` too.
    """

    __slots__ = ()

    _layout: BucketLayout
    _buffer: torch.Tensor

    def index(self) -> int:
        """0-based position of the bucket in the order of reduction."""
        return self._layout.index

    def buffer(self) -> torch.Tensor:
        """The flat 1-D buffer; the same object at each call.

        Writes go to the trainer's memory. After ``set_buffer``, what was set.
        """
        return self._buffer

    def gradients(self) -> list[torch.Tensor]:
        """A new list of views over the *current* buffer, shaped as the parameters.

        Row-major whatever the parameter's own strides are, as in PyTorch.
        Empty for a sparse bucket. The bucket of complex parameters is real; a
        view has both parts of each number, in a last dimension of 2. (Those of
        torch 2.15's Reducer have the parameter's shape, and so half the bucket.)
        """
        layout = self._layout
        if self._buffer is layout.tensor:
            return layout.gradients()
        return views_of(self._buffer, layout.offsets, layout.lengths, layout.sizes)

    def parameters(self) -> list[torch.nn.Parameter]:
        """The model's parameters, in the order of ``gradients()``.

        The same objects at every step, so that they may be dict keys; ``.grad``
        of each is a view of the trainer's buffer. Where the trainer gave no
        parameter values, see ``new_layout``.
        """
        return self._layout.parameters()

    def is_last(self) -> bool:
        """Whether this is the last bucket of the step."""
        return self._layout.index == self._layout.count - 1

    def set_buffer(self, buffer: torch.Tensor) -> None:
        """Replace the buffer of this object, not the trainer's memory.

        No check of shape or dtype, as in PyTorch: wrappers put an fp16 copy
        here for the hook that they wrap.
        """
        self._buffer = buffer

    # torch 1.7 to 1.9. Their use is noted, for `pyhook` to report.

    def get_index(self) -> int:
        """torch <= 1.9: ``index()``."""
        self._layout.legacy_names.add("get_index")
        return self.index()

    def get_tensor(self) -> torch.Tensor:
        """torch 1.8 and 1.9: ``buffer()``."""
        self._layout.legacy_names.add("get_tensor")
        return self._buffer

    def get_tensors(self) -> list[torch.Tensor]:
        """torch 1.7: ``[buffer()]``."""
        self._layout.legacy_names.add("get_tensors")
        return [self._buffer]

    def get_per_parameter_tensors(self) -> list[torch.Tensor]:
        """torch 1.8 and 1.9: ``gradients()``."""
        self._layout.legacy_names.add("get_per_parameter_tensors")
        return self.gradients()

    def is_the_last_bucket_to_allreduce(self) -> bool:
        """torch 1.8 and 1.9: ``is_last()``."""
        self._layout.legacy_names.add("is_the_last_bucket_to_allreduce")
        return self.is_last()

    def set_tensor(self, tensor: torch.Tensor, index: int = 0) -> None:
        """torch 1.8 and 1.9: ``set_buffer(tensor)``. ``index`` was unused there."""
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

    What hooks get says that this is its class, for ``isinstance`` and
    ``__class__``, and is no instance of it. PyTorch's class has no constructor:
    of an instance by ``__new__`` the C++ half would be missing, and C++'s own
    methods (``dist.GradBucket.buffer(bucket)``) would read memory that nobody
    set. So they refuse a bucket of pyhook's with a TypeError, and handing one
    back to C++ (``reducer._run_allreduce_hook(bucket)``) does not work.
    """

    __slots__ = ("_buffer", "_layout")

    def __new__(cls) -> Bucket:
        """Refuse: a bucket is made by the trainer, or by ``pyhook.testing.bucket``."""
        raise TypeError(f"{cls.__module__}.{cls.__qualname__}: No constructor defined!")


class _Shell(BucketMethods):
    """What ``fresh`` makes; the Go side has the same in C (cbridge/bucket_object.c)."""

    __slots__ = ("__weakref__", "_buffer", "_layout")

    @property  # type: ignore[misc]  # the class of an object can be set, this cannot
    def __class__(self) -> type[Bucket]:  # type: ignore[override]
        """Bucket, which this stands for."""
        return Bucket


_Shell.__name__ = _Shell.__qualname__ = "Bucket"


def fresh(layout: BucketLayout) -> Bucket:
    """A new shell over ``layout``, for one hook call."""
    bucket = _Shell()
    bucket._layout = layout
    bucket._buffer = layout.tensor
    return cast(Bucket, bucket)
