"""Hooks for the tests of pyhook compare."""

import os

import torch
import torch.distributed as dist


def done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


class Quarter:
    """Rounds to quarters of the largest element; keeps the rest if feedback is on."""

    def __init__(self, feedback):
        self.feedback = feedback
        self.rest = {}
        self.levels = torch.zeros(1000)  # 4,000 bytes
        self.same = self.levels[10:]  # of the same memory


def quarter(state, bucket):
    buffer = bucket.buffer()
    if state.feedback and bucket.index() in state.rest:
        buffer.add_(state.rest[bucket.index()])
    step = buffer.abs().max() / 4
    rounded = (buffer / step).round() * step
    if state.feedback:
        state.rest[bucket.index()] = buffer - rounded
    buffer.copy_(rounded)
    dist.all_reduce(buffer)
    return done(buffer.div_(dist.get_world_size()))


def gather(state, bucket):
    buffer = bucket.buffer()
    parts = [torch.empty_like(buffer) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, buffer)
    return done(torch.stack(parts).mean(0))


class Count:
    def __init__(self):
        self.calls = 0


def raises(state, bucket):
    state.calls += 1
    if state.calls == 4 and dist.get_rank() == 1:
        raise ValueError("the fourth call")
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0])


def dies(state, bucket):
    if dist.get_rank() == 1:
        os._exit(7)
    return raises(Count(), bucket)


def nan(state, bucket):
    return done(bucket.buffer().fill_(float("nan")))
