"""Hooks for the tests, importable by name so that other processes can load them."""

from __future__ import annotations

import os
import time

import torch
import torch.distributed as dist


def completed(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


def doubled(state, bucket):
    return completed(bucket.buffer() * 2)


def mean_by_then(state, bucket):
    group = state if state is not None else dist.group.WORLD
    work = dist.all_reduce(bucket.buffer().div_(group.size()), group=group, async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


def mean_old_style(state, bucket):
    """As published for torch 1.8: old method names, and a list as the value."""
    assert bucket.get_index() == 0
    assert bucket.is_the_last_bucket_to_allreduce()
    assert [g.shape for g in bucket.get_per_parameter_tensors()] == [
        g.shape for g in bucket.gradients()
    ]
    tensor = bucket.get_tensor()
    assert bucket.get_tensors()[0] is tensor
    return dist.all_reduce(tensor / dist.get_world_size(), async_op=True).get_future()


class CountingState:
    def __init__(self, process_group, factor=1.0):
        self.process_group = process_group
        self.factor = factor
        self.steps = 0
        self.seen = []


def scaled_by_steps(state, bucket):
    if bucket.index() == 0:
        state.steps += 1
        state.seen = []
    state.seen.append(bucket.index())
    assert state.seen == list(range(len(state.seen)))
    assert bucket.is_last() == (len(state.seen) == 3)
    return completed(bucket.buffer() * state.steps * state.factor)


def rank_one_raises(state, bucket):
    if dist.get_rank() == 1:
        raise KeyError("only rank one")
    return mean_by_then(state, bucket)


def raises_in_then(state, bucket):
    def callback(future):
        raise ValueError("from the callback")

    return mean_by_then(state, bucket).then(callback)


def rank_zero_exits(state, bucket):
    if dist.get_rank() == 0:
        os._exit(3)
    return mean_by_then(state, bucket)


def rank_one_sleeps(state, bucket):
    if dist.get_rank() == 1:
        time.sleep(60)
    return completed(bucket.buffer())


def twice(hook):
    """A wrapper, as fp16_compress_wrapper is one."""

    def twice_hook(state, bucket):
        return hook(state, bucket).then(lambda future: future.value() * 2)

    return twice_hook


def sum_of(first, second):
    return lambda state, bucket: completed(
        first(state, bucket).value() + second(state, bucket).value()
    )


class Holder:
    @staticmethod
    def hook(state, bucket):
        return completed(bucket.buffer())

    def method(self, state, bucket):
        return completed(bucket.buffer())

    def __call__(self, state, bucket):
        return completed(bucket.buffer())


async def async_hook(state, bucket):
    return completed(bucket.buffer())


def generator_hook(state, bucket):
    yield bucket


def one_argument(bucket):
    return completed(bucket.buffer())


NOT_A_HOOK = 3
