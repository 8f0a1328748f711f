"""Hooks that were written for NCCL, and that fail in ways with a likely reason."""

import torch
import torch.distributed as dist


def gather(tensor):
    out = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    return dist.all_gather(out, tensor, async_op=True).get_future()


def nccl_mean(state, bucket):
    """Takes [tensor of all ranks], in a callback, and again in a callback of that."""
    flat = bucket.buffer()

    def again(future):
        return gather(future.value()[0].mean(0)).wait()[0].mean(0)

    return gather(flat).then(again)


def indexed_in_a_callback(state, bucket):
    flat = bucket.buffer()
    return gather(flat).then(lambda f: f.value()[0][dist.get_rank(), :])


def indexed_in_the_call(state, bucket):
    gather(bucket.buffer()).wait()[0][dist.get_rank(), :]


def own_index_error(state, bucket):
    [][0]


def wants_state(state, bucket):
    state.steps += 1


def tensor_key(state, bucket):
    return {}[bucket.buffer()]


def tensor_key_in_a_callback(state, bucket):
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda f: {}[(1, f.value()[0])])


def tensor_key_alone_in_a_callback(state, bucket):
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda f: {}[f.value()[0]])


def functional(state, bucket):
    """A result that is still on its way: torch 2's AsyncCollectiveTensor."""
    from torch.distributed import _functional_collectives as functional

    future = torch.futures.Future()
    future.set_result(functional.all_reduce(bucket.buffer(), "sum", dist.group.WORLD))
    return future


def has_functional():
    return hasattr(dist, "_functional_collectives") or torch.__version__ >= "2"


def never(state, bucket):
    return torch.futures.Future()


def short_of_nccl(state, bucket):
    """The first row of the tensor of all ranks: on gloo the first element of the first rank's."""
    return gather(bucket.buffer()).then(lambda f: f.value()[0][0])
