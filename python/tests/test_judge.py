"""What `pyhook check` asks of Python: pyhook._runtime.check."""

import functools
import random
import types

import pytest
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from pyhook._runtime import check


def plain(state, bucket):
    return torch.futures.Future()


def annotated(state, bucket) -> torch.Tensor:
    return torch.futures.Future()


def other_name(state, gradients):
    return torch.futures.Future()


class Instance:
    def __call__(self, state, bucket):
        return torch.futures.Future()


def test_hooks_that_stock_takes():
    for hook in (plain, default_hooks.allreduce_hook, powerSGD_hook.powerSGD_hook):
        assert check.stock_refusal(hook) == ""


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (annotated, "return annotation should be torch.futures.Future[torch.Tensor]"),
        (other_name, "its parameters are (state, gradients)"),
        (Instance(), "it has no name"),
        (functools.partial(plain), "it has no name"),
        (types.MethodType(lambda self, state, bucket: None, 1), ""),
    ],
)
def test_what_stock_refuses_is_reported(hook, said, ddp):
    refusal = check.stock_refusal(hook)
    assert said in refusal
    assert bool(refusal) == bool(said)
    if said:  # and it is what register_comm_hook does
        with pytest.raises((ValueError, KeyError, AttributeError)):
            ddp.register_comm_hook(None, hook)
    else:
        ddp.register_comm_hook(None, hook)


def test_annotations_that_are_texts_are_explained():
    def late(state, bucket) -> "torch.futures.Future[torch.Tensor]":
        raise AssertionError

    assert "from __future__ import annotations" in check.stock_refusal(late)


@pytest.fixture
def ddp(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield DistributedDataParallel(torch.nn.Linear(2, 2))
    dist.destroy_process_group()


def test_stock_ddp_makes_its_buckets_anew(tmp_path):
    """As `pyhook check --rebuild` has it: one bucket in the first step, several after it."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = torch.nn.Sequential(*[torch.nn.Linear(600, 600) for _ in range(3)])
        wrapped = DistributedDataParallel(model, bucket_cap_mb=1)
        kept, seen = {}, []

        def by_index(state, bucket):
            buffer = bucket.buffer()
            seen[-1].append((bucket.index(), buffer.numel()))
            if bucket.index() in kept:
                buffer.add_(kept[bucket.index()])
            kept[bucket.index()] = torch.zeros_like(buffer)
            work = dist.all_reduce(buffer, async_op=True)
            return work.get_future().then(lambda f: f.value()[0])

        wrapped.register_comm_hook(None, by_index)
        seen.append([])
        wrapped(torch.ones(2, 600)).sum().backward()
        assert seen[0] == [(0, 3 * 360600)]
        seen.append([])
        with pytest.raises(RuntimeError, match="must match the size"):
            wrapped(torch.ones(2, 600)).sum().backward()
        assert seen[1][0] == (0, 360600)
    finally:
        dist.destroy_process_group()


def test_a_second_run_draws_what_the_first_one_drew():
    states = check.random_states()
    first = (torch.rand(3).tolist(), random.random())
    check.set_random_states(states)
    assert (torch.rand(3).tolist(), random.random()) == first
