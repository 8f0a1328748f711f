"""What trainers and hooks do with a group: sub-groups, DDP, errors, bursts, and some hooks.

The cases join those of collectives.py. Single tests call the functions after them by name.
"""

import torch
import torch.distributed as dist
from collectives import case, same, total


@case
def sub_groups(rank, size):
    assert dist.get_backend() == "pyhook_go"
    first = dist.new_group([0, 1])
    last = dist.new_group([size - 1])
    both = dist.new_group()
    x = torch.tensor([float(rank + 1)])
    if rank < 2:
        assert dist.get_rank(first) == rank
        assert dist.get_world_size(first) == 2
        dist.all_reduce(x, group=first)
        same(x, torch.tensor([3.0]))
        objects = [None, None]
        dist.all_gather_object(objects, rank, group=first)
        assert objects == [0, 1]
        y = torch.tensor([float(rank)])
        dist.broadcast(y, src=1, group=first)
        same(y, torch.tensor([1.0]))
    if rank == size - 1:
        z = torch.tensor([5.0])
        dist.all_reduce(z, group=last)
        same(z, torch.tensor([5.0]))
    w = torch.tensor([float(rank)])
    dist.all_reduce(w, group=both)
    same(w, torch.tensor([float(total(size))]))
    dist.barrier(group=both)
    dist.destroy_process_group(both)
    if rank < 2:
        dist.barrier(group=first)


@case
def coalescing_manager(rank, size):
    manager = getattr(dist.distributed_c10d, "_coalescing_manager", None)
    if manager is None or torch.__version__ < "2.":
        return
    tensors = [torch.full((2,), float(rank)) for _ in range(3)]
    with manager():
        for tensor in tensors:
            dist.all_reduce(tensor)
    for tensor in tensors:
        same(tensor, torch.full((2,), float(total(size))))


@case
def errors_are_exceptions(rank, size):
    for wrong in [
        lambda: dist.all_reduce(torch.ones(2), op=dist.ReduceOp.BAND),
        lambda: dist.all_reduce(torch.ones(2, dtype=torch.int64), op=dist.ReduceOp.AVG),
        lambda: dist.all_reduce(torch.ones(2).to_sparse()),
        lambda: dist.all_gather([torch.ones(3)] * size, torch.ones(2)),
    ]:
        try:
            wrong()
        except RuntimeError as error:
            if type(error).__name__ != "GroupError" and "sparse" not in str(error).lower():
                raise
        else:
            raise AssertionError("no error")
    dist.barrier()


@case
def ddp_in_cpp(rank, size):
    """torch's own reducer: it calls the group from C++ and keeps the works there."""
    torch.manual_seed(rank)
    model = torch.nn.parallel.DistributedDataParallel(
        torch.nn.Linear(4, 3), broadcast_buffers=False
    )
    weight = model.module.weight.detach().clone()
    out = [torch.zeros_like(weight) for _ in range(size)]
    dist.all_gather(out, weight)
    for other in out:
        same(other, weight)
    for _ in range(3):
        model.zero_grad()
        model(torch.full((2, 4), float(rank))).sum().backward()
        same(model.module.weight.grad, torch.full((3, 4), 2.0 * total(size) / size))


def out_of_step():
    try:
        if dist.get_rank() == 0:
            dist.all_reduce(torch.ones(4))
        else:
            dist.broadcast(torch.ones(2), src=0)
    except RuntimeError as error:
        dist.barrier()
        return f"{type(error).__name__} {error.code}: {error}"
    return "no error"


def alone():
    try:
        dist.all_reduce(torch.ones(4))
    except RuntimeError as error:
        return str(error)
    return "no error"


def burst(n):
    x = torch.zeros(100)
    y = torch.zeros(5000)
    pending = []
    for i in range(n):
        pending.append(dist.all_reduce(y if i % 10 == 0 else x, async_op=True).get_future())
        if len(pending) == 50:
            torch.futures.wait_all(pending)
            pending = []
    torch.futures.wait_all(pending)


def local_sgd_state():
    from torch.distributed.algorithms.ddp_comm_hooks import post_localSGD_hook

    subs = [dist.new_group([r]) for r in range(dist.get_world_size())]
    return post_localSGD_hook.PostLocalSGDState(
        process_group=None, subgroup=subs[dist.get_rank()], start_localSGD_iter=4
    )


def all_gather_hook(state, bucket):
    group = state if state is not None else dist.group.WORLD
    x = bucket.buffer()
    out = [torch.empty_like(x) for _ in range(group.size())]
    future = dist.all_gather(out, x, group=group, async_op=True).get_future()
    return future.then(lambda _: torch.stack(out).mean(0))


def reduce_scatter_hook(state, bucket):
    x = bucket.buffer()
    size = dist.get_world_size()
    parts = list(x.chunk(size))
    mine = torch.empty_like(parts[dist.get_rank()])
    scatter = dist.reduce_scatter(mine, parts, async_op=True).get_future()

    def collect(_):
        dist.all_gather(parts, mine / size)
        return x

    return scatter.then(collect)


def all_to_all_hook(state, bucket):
    x = bucket.buffer()
    size = dist.get_world_size()
    out = torch.empty_like(x)
    work = dist.all_to_all_single(out, x, async_op=True)

    def collect(_):
        mine = out.view(size, -1).sum(0) / size
        parts = [torch.empty_like(mine) for _ in range(size)]
        dist.all_gather(parts, mine)
        return torch.cat(parts)

    return work.get_future().then(collect)


class Scale:
    """What quantised keeps between its body and its callback."""

    scale = None


def quantised(state, bucket):
    """Right where a call's callbacks run before the next call."""
    world, buffer = dist.get_world_size(), bucket.buffer()
    state.scale = buffer.abs().max()
    dist.all_reduce(state.scale, op=dist.ReduceOp.MAX)
    whole = (buffer / state.scale * 1000).round().to(torch.int32)
    future = dist.all_reduce(whole, async_op=True).get_future()
    return future.then(lambda f: f.value()[0].float() * state.scale / 1000 / world)
