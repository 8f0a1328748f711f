"""Buckets on a GPU: hooks run on the trainer's stream, and that waits for their results.

A stream is a GPU's queue: what is put on one runs in order, and two run side by side. PyTorch's
reducer calls hooks with its own stream current, so that what they enqueue comes after the
gradients, and waits for their futures with it current (torch/csrc/distributed/c10d/reducer.cpp,
finalize_backward): ``Future.wait`` then has the stream, not the CPU, wait for the events that the
future recorded (ATen/core/ivalue_inl.h, synchronizeWithCurrentStreams). Here the trainer's stream
does both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from .bucket_layout import BucketLayout
from .result import parse_value


class OnStream:
    """What the Go side does with the hooks and futures of one bucket on a GPU.

    Args:
        current: makes a context in which the trainer's stream is the current one.
    """

    def __init__(self, current: Callable[[], AbstractContextManager[Any]]) -> None:
        self._current = current

    def around(self, hook: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Return a hook that calls ``hook`` on the stream."""

        def call(state: Any, bucket: Any) -> Any:
            with self._current():
                return hook(state, bucket)

        return call

    def value(self, future: Any) -> Any:
        """Return the value of a future that is done. The stream waits for it, the CPU does not.

        Raises:
            Exception: the future's, as ``value()`` does; also if it is not done.
        """
        if not future.done():
            return future.value()
        with self._current():
            return future.wait()

    def parse_value(self, value: Any, layout: BucketLayout) -> torch.Tensor:
        """Call ``parse_value`` on the stream: it may copy a tensor with strides."""
        with self._current():
            return parse_value(value, layout)


def on_stream(device: str, handle: int) -> OnStream:
    """Return the OnStream of a device ("cuda:1") and its ``cudaStream_t``; 0: its default stream.

    Raises:
        RuntimeError, AssertionError: torch has no such device.
    """
    where = torch.device(device)
    if handle:
        stream = torch.cuda.ExternalStream(handle, device=where)
    else:
        stream = torch.cuda.default_stream(where)
    return OnStream(functools.partial(torch.cuda.stream, stream))
