"""Hooks that the order of the buckets, or their sizes, matter to."""

import os
import time

import torch
import torch.distributed as dist


class State:
    def __init__(self):
        self.scale = None
        self.open = False
        self.kept = {}


def quantising(state, bucket):
    """Keeps its scale between body and callback, as hooks do that were written for NCCL."""
    n, b = dist.get_world_size(), bucket.buffer()
    state.scale = b.abs().max()
    dist.all_reduce(state.scale, op=dist.ReduceOp.MAX)
    q = (b / state.scale * 1000).round().to(torch.int32)
    future = dist.all_reduce(q, async_op=True).get_future()
    return future.then(lambda f: f.value()[0].float() * state.scale / 1000 / n)


def alone(state, bucket, otherwise):
    """Calls otherwise where a call comes before the callback of the one before it."""
    if state.open:
        otherwise()
    state.open = True
    future = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)

    def close(f):
        state.open = False
        return f.value()[0]

    return future.get_future().then(close)


def raises_overlapped(state, bucket):
    def fail():
        raise RuntimeError("another call is under way")

    return alone(state, bucket, fail)


def dies_overlapped(state, bucket):
    return alone(state, bucket, lambda: os._exit(7))


def sleeps_overlapped(state, bucket):
    return alone(state, bucket, lambda: time.sleep(3600))


waiting = []


def all_at_the_last(state, bucket):
    """Every future is done with the last bucket's."""
    future = torch.futures.Future()
    waiting.append((future, bucket.buffer()))
    if bucket.is_last():
        for _, buffer in waiting:
            dist.all_reduce(buffer.div_(dist.get_world_size()))
        for done, buffer in waiting:
            done.set_result(buffer)
        waiting.clear()
    return future


def kept_by_index(state, bucket):
    """Error feedback by bucket.index(): of another size when the buckets are made anew."""
    buffer = bucket.buffer()
    if bucket.index() in state.kept:
        buffer.add_(state.kept[bucket.index()])
    state.kept[bucket.index()] = torch.zeros_like(buffer)
    return dist.all_reduce(buffer.div_(dist.get_world_size()), async_op=True).get_future()


calls = [0]


def never_twice(state, bucket):
    """Counts its calls outside of its state."""
    calls[0] += 1
    buffer = bucket.buffer().div_(dist.get_world_size()).add_(calls[0] * 1e-6)
    return dist.all_reduce(buffer, async_op=True).get_future()


def annotated(state, bucket: dist.GradBucket) -> torch.Tensor:
    buffer = bucket.buffer().div_(dist.get_world_size())
    return dist.all_reduce(buffer, async_op=True).get_future()


class Instance:
    def __call__(self, state, bucket):
        return annotated(state, bucket)


instance = Instance()
