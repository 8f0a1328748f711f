"""The Python side of the benchmark: the floor, and what keeps the GIL busy."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Sequence
from typing import Any, Callable

import torch

Hook = Callable[[Any, Any], Any]


def parameters(sizes: Sequence[Sequence[int]]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(tuple(size))) for size in sizes]


def on_gpu(buffer: torch.Tensor) -> torch.Tensor:
    return buffer.cuda()


def testing_bucket(buffer: torch.Tensor, sizes: Sequence[Sequence[int]]) -> Any:
    """A bucket where there is no C++ peer to make PyTorch's own."""
    from pyhook._runtime.bucket import new_bucket
    from pyhook._runtime.bucket_layout import BucketLayout

    lengths = [torch.Size(size).numel() for size in sizes]
    offsets = [sum(lengths[:i]) for i in range(len(lengths))]
    layout = BucketLayout(
        buffer,
        0,
        1,
        offsets,
        lengths,
        sizes,
        params=parameters(sizes),
    )
    return new_bucket(layout)


class Floor:
    """hook(state, bucket).wait() from Python itself, on PyTorch's own bucket."""

    def __init__(self, hook: Hook, state: Any, bucket: Any) -> None:
        self.hook, self.state, self.bucket = hook, state, bucket

    def run(self, n: int, address: int) -> None:
        """Store the nanoseconds of n calls; 0.05 us of each is this loop's."""
        hook, state, bucket, clock = self.hook, self.state, self.bucket, time.perf_counter_ns
        stamps = [clock()]
        note = stamps.append
        for _ in range(n):
            hook(state, bucket).wait()
            note(clock())
        out = (ctypes.c_int64 * n).from_address(address)
        for i in range(n):
            out[i] = stamps[i + 1] - stamps[i]


class Busy:
    """A thread that computes in Python: it gives the GIL away when asked, after 5 ms."""

    def __init__(self) -> None:
        self.wanted = True
        self.thread = threading.Thread(target=self.compute, daemon=True)
        self.thread.start()

    def compute(self) -> None:
        """Count until stop()."""
        count = 0
        while self.wanted:
            count += 1

    def stop(self) -> None:
        """End the thread."""
        self.wanted = False
        self.thread.join()
