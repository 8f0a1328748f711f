"""Hooks that the command's tests run: good, odd and broken ones."""

import os
import time

import torch
import torch.distributed as dist


def done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


def raises(state, bucket):
    raise ValueError("boom in the hook")


def rank_one_raises(state, bucket):
    if dist.get_rank() == 1 and bucket.index() == 1:
        raise KeyError("only rank one")
    return dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()


def fails_later(state, bucket):
    future = dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()

    def explode(f):
        raise RuntimeError("boom in the callback")

    return future.then(explode)


def returns_none(state, bucket):
    bucket.buffer().div_(2)


def too_short(state, bucket):
    return done(bucket.buffer()[:-1])


def not_a_number(state, bucket):
    return done(bucket.buffer() * float("nan"))


def sleeps(state, bucket):
    time.sleep(3600)


def never_done(state, bucket):
    return torch.futures.Future()


def rank_one_waits(state, bucket):
    if dist.get_rank() == 1:
        dist.barrier()
    return dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()


def dies(state, bucket):
    if dist.get_rank() == 1:
        os.kill(os.getpid(), 9)
    return dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()


def crashes(state, bucket):
    import ctypes

    ctypes.string_at(0)


def leaves(state, bucket):
    os._exit(7)


def prints(state, bucket):
    print("hello from the hook")
    tensor = bucket.buffer().div_(dist.get_world_size())
    return dist.all_reduce(tensor, async_op=True).get_future().then(lambda f: f.value()[0])


def half(state, bucket):
    """A fresh tensor of another dtype, alike on all ranks."""
    tensor = bucket.buffer() / dist.get_world_size()
    dist.all_reduce(tensor)
    return done(tensor.to(torch.bfloat16))


class Scale:
    def __init__(self, process_group, factor=1.0, names=()):
        self.group, self.factor, self.names = process_group, factor, names


def scaled(state, bucket):
    tensor = bucket.buffer() * (state.factor / state.group.size())
    dist.all_reduce(tensor, group=state.group)
    return done(tensor)


def prints_and_sleeps(state, bucket):
    import sys

    print("about to sleep", file=sys.stderr, flush=True)
    time.sleep(3600)


def sleeps_a_while(state, bucket):
    time.sleep(0.2)
    return dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()


def gather(tensor):
    out = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    return dist.all_gather(out, tensor, async_op=True).get_future()


def first_of_nccl(state, bucket):
    """The mean on NCCL; on gloo rank 0's gradients, alike on all ranks."""
    n = bucket.buffer().numel()
    return gather(bucket.buffer()).then(lambda f: f.value()[0].reshape(-1, n).mean(0))


def indexes_for_nccl(state, bucket):
    return gather(bucket.buffer()).then(lambda f: f.value()[0][dist.get_rank(), :])


def wants_state(state, bucket):
    state.steps += 1
