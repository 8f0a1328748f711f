"""Buckets on a device: hooks run on a stream, and that waits for their results.

PyTorch's reducer calls hooks with its own stream current, so that what they enqueue comes after the
gradients, and waits for their futures with it current (torch/csrc/distributed/c10d/reducer.cpp,
finalize_backward): ``Future.wait`` then has the stream, not the CPU, wait for the events that the
future recorded (ATen/core/ivalue_inl.h, synchronizeWithCurrentStreams). Here one stream does both:
the trainer's, or package ddp's communication stream (``memory``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Optional

import torch

from .._runtime.bucket_layout import BucketLayout
from .._runtime.result import parse_value
from . import held, streams


class OnStream:
    """What the Go side does with the hooks and futures of one bucket on a device.

    Args:
        current: makes a context in which the stream is the current one.
        device: of the stream.
        before: is called with the hook and its state before each call.
    """

    def __init__(
        self,
        current: Callable[[], AbstractContextManager[Any]],
        device: torch.device,
        before: Optional[Callable[[Any, Any], None]] = None,
    ) -> None:
        self.current = current
        self._before = before
        self.devices = [device] if device.type != "cpu" else []  # of futures of what is there

    def around(self, hook: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Return a hook that calls ``hook`` on the stream."""

        def call(state: Any, bucket: Any) -> Any:
            with self.current():
                if self._before is not None:
                    self._before(hook, state)
                return hook(state, bucket)

        return call

    def value(self, future: Any) -> Any:
        """Return the value of a future that is done. The stream waits for it, the CPU does not.

        Raises:
            Exception: the future's, as ``value()`` does; also if it is not done.
        """
        if not future.done():
            return future.value()
        with self.current():
            return future.wait()

    def parse_value(self, value: Any, layout: BucketLayout) -> torch.Tensor:
        """Call ``parse_value`` on the stream: it may copy a tensor with strides."""
        with self.current():
            return parse_value(value, layout)


def on_stream(device: str, handle: int) -> OnStream:
    """Return the OnStream of a device ("cuda:1") and the trainer's stream; see c10d.Stream.

    States are made and restored on the default stream. Another one waits for that before each call,
    and the allocator is told of what the hook and its state hold: see ``held``.

    Raises:
        RuntimeError: torch has no such device.
    """
    where = torch.device(device)
    stream = streams.existing_stream(where, handle)
    before = None
    if handle != 0:
        before = functools.partial(_after, streams.existing_stream(where, 0), stream)
    return OnStream(functools.partial(streams.current, stream), where, before)


def _after(default: Any, stream: Any, *holders: Any) -> None:
    stream.wait_stream(default)
    for tensor in held.tensors(holders, stream.device):
        tensor.record_stream(stream)
