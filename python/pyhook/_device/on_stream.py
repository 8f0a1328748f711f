"""Buckets on a device: hooks run on a stream, and that waits for their results.

PyTorch's reducer calls hooks with its own stream current, so that what they enqueue comes after the
gradients, and waits for their futures with it current (torch/csrc/distributed/c10d/reducer.cpp,
finalize_backward): ``Future.wait`` then has the stream, not the CPU, wait for the events that the
future recorded (ATen/core/ivalue_inl.h, synchronizeWithCurrentStreams). Here the trainer's stream
does both, or package ddp's two (``memory``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Optional

import torch

from .._runtime.bucket_layout import BucketLayout
from .._runtime.result import parse_value
from . import streams


class OnStream:
    """What the Go side does with the hooks and futures of one bucket on a device.

    Args:
        current: makes a context in which the hook's stream is the current one.
        device: of the stream.
        after: makes one of the stream that waits for results; None: ``current``.
        used: has freed memory of a tensor kept until that stream has used it; None: it is the
            stream that the tensor was made on.
    """

    def __init__(
        self,
        current: Callable[[], AbstractContextManager[Any]],
        device: torch.device,
        after: Optional[Callable[[], AbstractContextManager[Any]]] = None,
        used: Optional[Callable[[torch.Tensor], None]] = None,
    ) -> None:
        self.current = current
        self.after = after or current
        self._used = used
        self.devices = [device] if device.type != "cpu" else []  # of futures of what is there

    def around(self, hook: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Return a hook that calls ``hook`` on the stream."""

        def call(state: Any, bucket: Any) -> Any:
            with self.current():
                return hook(state, bucket)

        return call

    def value(self, future: Any) -> Any:
        """Return the value of a future that is done. The stream waits for it, the CPU does not.

        Raises:
            Exception: the future's, as ``value()`` does; also if it is not done.
        """
        if not future.done():
            return future.value()
        with self.after():
            value = future.wait()
        if self._used is not None:  # as torch does for a future that knows the device
            for part in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(part, torch.Tensor):
                    self._used(part)
        return value

    def parse_value(self, value: Any, layout: BucketLayout) -> torch.Tensor:
        """Call ``parse_value`` after the result is there: it may copy a tensor with strides."""
        with self.after():
            return parse_value(value, layout)


def on_stream(device: str, handle: int) -> OnStream:
    """Return the OnStream of a device ("cuda:1") and the trainer's stream; see c10d.Stream.

    Raises:
        RuntimeError: torch has no such device.
    """
    where = torch.device(device)
    stream = streams.existing_stream(where, handle)
    return OnStream(functools.partial(streams.current, stream), where)
