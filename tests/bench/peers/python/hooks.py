"""The hooks that all peers call, and the bucket that those other than pyhook give them."""

from __future__ import annotations

from typing import Any

import torch


class Bucket:
    """What a hook of one buffer asks of a GradBucket."""

    def __init__(self, buffer: torch.Tensor) -> None:
        self._buffer = buffer

    def index(self) -> int:
        return 0

    def is_last(self) -> bool:
        return True

    def buffer(self) -> torch.Tensor:
        return self._buffer

    def gradients(self) -> list[torch.Tensor]:
        return [self._buffer]


def done(tensor: torch.Tensor) -> Any:
    future: Any = torch.futures.Future()
    future.set_result(tensor)
    return future


def noop(state: Any, bucket: Any) -> Any:
    """PyTorch's noop_hook."""
    return done(bucket.buffer())


def fp16(state: Any, bucket: Any) -> Any:
    """PyTorch's fp16_compress_hook without its all-reduce: to half precision and back."""
    buffer = bucket.buffer()
    half = buffer.to(torch.float16)
    buffer.copy_(half)
    return done(buffer)


def negated(state: Any, bucket: Any) -> Any:
    """It shows that a hook ran."""
    return done(bucket.buffer().neg_())
