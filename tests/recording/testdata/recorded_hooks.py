"""Hooks of a user's own, which the tests record under DistributedDataParallel and replay from Go."""

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import (
    default_hooks,
    optimizer_overlap_hooks,
    powerSGD_hook,
)
from torch.distributed.optim.functional_sgd import _FunctionalSGD


def serial_powersgd(state, bucket):
    """PowerSGD for several buckets: without the wait stock DDP mixes up ranks on gloo."""
    future = powerSGD_hook.powerSGD_hook(state, bucket)
    future.wait()
    return future


def random_k(state, bucket):
    """Average the elements that torch's own generator, the same on all ranks, draws."""
    buffer = bucket.buffer()
    keep = torch.randperm(buffer.numel())[: buffer.numel() // 4 + 1]
    kept = buffer[keep] / dist.get_world_size()

    def spread(future):
        return torch.zeros_like(buffer).index_copy_(0, keep, future.value()[0])

    return dist.all_reduce(kept, async_op=True).get_future().then(spread)


class Scale:
    """A state with an argument and a count."""

    def __init__(self, factor=1.0):
        self.factor = factor
        self.calls = 0


def counted(state, bucket):
    """Scale by the factor, and by how often it was called."""
    state.calls += 1
    buffer = bucket.buffer().mul_(state.factor / dist.get_world_size() / state.calls)
    return dist.all_reduce(buffer, async_op=True).get_future().then(lambda f: f.value()[0])


def offset_view(state, bucket):
    """Give the mean as a view that begins in the middle of its memory: DDP reads other elements."""
    wide = torch.cat([torch.ones(2, dtype=bucket.buffer().dtype), bucket.buffer()])
    mean = wide / dist.get_world_size()
    return dist.all_reduce(mean, async_op=True).get_future().then(lambda f: f.value()[0][2:])


def then_optimizer():
    """Make the hook that averages and takes the optimizer's step."""
    functional = _FunctionalSGD([], lr=0.0, _allow_empty_param_list=True)
    state = optimizer_overlap_hooks._OptimizerHookState(functional)
    return optimizer_overlap_hooks._hook_then_optimizer(default_hooks.allreduce_hook, state)


def wrong(state, bucket):
    """Average, and round the last element of the first bucket's third gradient otherwise."""
    future = default_hooks.allreduce_hook(None, bucket)

    def nudged(f):
        value = f.value()
        if bucket.index() == 0:
            value[7] = torch.nextafter(value[7], value.new_tensor(float("inf")))
        return value

    return future.then(nudged)
