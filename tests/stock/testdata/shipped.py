"""Hooks that PyTorch ships and that need a state or a wrapped hook, by one name each.

Both sides load them from here: the Go trainer as shipped.py:NAME, and dumped.py. A state is made at
the first call, once in a process.

usage: shipped.py     (prints the names of those that this torch can run on gloo)
"""

import os

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import (
    debugging_hooks,
    default_hooks,
    optimizer_overlap_hooks,
    post_localSGD_hook,
    powerSGD_hook,
    quantization_hooks,
)
from torch.distributed.optim import _FunctionalSGD

made = {}


def once(name, make):
    if name not in made:
        made[name] = make()
    return made[name]


def power_state(start):
    return powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=1, start_powerSGD_iter=start, min_compression_rate=1
    )


def noop(state, bucket):
    return debugging_hooks.noop_hook(state, bucket)


def bf16(state, bucket):
    return default_hooks.bf16_compress_hook(state, bucket)


def fp16_allreduce(state, bucket):
    return default_hooks.fp16_compress_wrapper(default_hooks.allreduce_hook)(state, bucket)


def bf16_allreduce(state, bucket):
    return default_hooks.bf16_compress_wrapper(default_hooks.allreduce_hook)(state, bucket)


def fp16_powersgd(_, bucket):
    state = once("fp16_powersgd", lambda: power_state(2))
    return default_hooks.fp16_compress_wrapper(powerSGD_hook.powerSGD_hook)(state, bucket)


def bf16_powersgd(_, bucket):
    state = once("bf16_powersgd", lambda: power_state(2))
    return default_hooks.bf16_compress_wrapper(powerSGD_hook.powerSGD_hook)(state, bucket)


def batched_powersgd(_, bucket):
    """Up to its first compression, where it fails on the CPU."""
    state = once("batched_powersgd", lambda: power_state(100))
    return powerSGD_hook.batched_powerSGD_hook(state, bucket)


def post_localsgd(_, bucket):
    """From the third step on within one half of the ranks."""
    state = once(
        "post_localsgd",
        lambda: post_localSGD_hook.PostLocalSGDState(None, half(), start_localSGD_iter=2),
    )
    return post_localSGD_hook.post_localSGD_hook(state, bucket)


def half():
    n = dist.get_world_size()
    size = max(1, n // 2)
    mine = None
    for first in range(0, n, size):
        ranks = list(range(first, first + size))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            mine = group
    return mine


def quantize_pertensor(state, bucket):
    return quantization_hooks.quantization_pertensor_hook(state, bucket)


def quantize_perchannel(state, bucket):
    return quantization_hooks.quantization_perchannel_hook(state, bucket)


def then_optimizer(_, bucket):
    """Steps the weights by the mean, in the hook."""

    def make():
        functional = _FunctionalSGD([], lr=0.1, _allow_empty_param_list=True)
        return optimizer_overlap_hooks._hook_then_optimizer(
            default_hooks.allreduce_hook, optimizer_overlap_hooks._OptimizerHookState(functional)
        )

    return once("then_optimizer", make)(None, bucket)


HOOKS = {
    hook.__name__: hook
    for hook in (
        noop,
        bf16,
        fp16_allreduce,
        bf16_allreduce,
        fp16_powersgd,
        bf16_powersgd,
        batched_powersgd,
        post_localsgd,
        quantize_pertensor,
        quantize_perchannel,
        then_optimizer,
    )
}


class Bucket:
    """One bucket of one matrix, of a world of one."""

    def __init__(self, weight):
        self._weight = weight
        self._buffer = torch.ones(weight.numel())

    def index(self):
        return 0

    def is_last(self):
        return True

    def buffer(self):
        return self._buffer

    def set_buffer(self, buffer):
        self._buffer = buffer

    def parameters(self):
        return [self._weight]

    def gradients(self):
        return [self._buffer.view(self._weight.shape)]


def runs(hook):
    weight = torch.nn.Parameter(torch.ones(6, 5))
    try:
        for _ in range(4):
            hook(None, Bucket(weight)).wait()
    except Exception:
        return False
    return True


def fp16(state, bucket):
    return default_hooks.fp16_compress_hook(state, bucket)


if __name__ == "__main__":
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with torch.no_grad():
        print(*(name for name, hook in {**HOOKS, "fp16": fp16}.items() if runs(hook)), flush=True)
    os._exit(0)
