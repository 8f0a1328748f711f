"""Hooks that all-reduce, for networks that fail: one that waits, one that does not."""

import torch
import torch.distributed as dist


def waits(state, bucket):
    tensor = bucket.buffer()
    dist.all_reduce(tensor)
    future = torch.futures.Future()
    future.set_result(tensor)
    return future


def pending(state, bucket):
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda f: f.value()[0])
