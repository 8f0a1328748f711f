"""Top-k with error feedback by all_gather: the kind of hook whose bytes grow with the ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


class TopK:
    """The share of the elements that a rank sends, and what it has not sent yet, by bucket."""

    def __init__(self, share: float = 0.01) -> None:
        self.share = share
        self.rest: dict[int, torch.Tensor] = {}


def top_k(state: TopK, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Send the largest elements of each rank, and keep the others for the next step."""
    buffer, world = bucket.buffer(), dist.get_world_size()
    if bucket.index() in state.rest:
        buffer.add_(state.rest[bucket.index()])
    k = max(1, int(buffer.numel() * state.share))
    index = buffer.abs().topk(k, sorted=False).indices
    value = buffer[index]
    state.rest[bucket.index()] = buffer.index_fill(0, index, 0)
    indices = [torch.empty_like(index) for _ in range(world)]
    values = [torch.empty_like(value) for _ in range(world)]
    works = [
        dist.all_gather(indices, index, async_op=True),
        dist.all_gather(values, value, async_op=True),
    ]
    for work in works:
        work.wait()
    buffer.zero_()
    for i, v in zip(indices, values):
        buffer.index_add_(0, i, v, alpha=1 / world)
    future: Any = torch.futures.Future()
    future.set_result(buffer)
    return future
