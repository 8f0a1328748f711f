"""Hooks of test_forms.py, which look at what the futures of collectives hold."""

import torch
import torch.distributed as dist


def shapes(value):
    """The form of a value: shapes in place of tensors."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    return [shapes(item) for item in value] if isinstance(value, (list, tuple)) else value


def calls(rank, world):
    """Every collective that torch.distributed has, by the name that its form is listed under."""
    group = dist.group.WORLD

    def mine(*size):
        return torch.full(size, float(rank + 1))

    def empty(count, *size):
        return [torch.zeros(size) for _ in range(count)]

    root = rank == 0
    return {
        "all_reduce": lambda: dist.all_reduce(mine(3), async_op=True),
        "all_reduce_coalesced": lambda: group.allreduce_coalesced([mine(3), mine(2)]),
        "broadcast": lambda: dist.broadcast(mine(3), 0, async_op=True),
        "reduce": lambda: dist.reduce(mine(3), 0, async_op=True),
        "all_gather": lambda: dist.all_gather(empty(world, 3, 2), mine(3, 2), async_op=True),
        "group.allgather": lambda: group.allgather(empty(world, 3), mine(3)),
        "group.allgather, lists": lambda: group.allgather([empty(world, 3)], [mine(3)]),
        "group.allgather, named": lambda: group.allgather(
            output_tensors=[empty(world, 3)], input_tensors=[mine(3)]
        ),
        "all_gather_into_tensor": lambda: dist.all_gather_into_tensor(
            torch.zeros(world * 3), mine(3), async_op=True
        ),
        "group._allgather_base": lambda: group._allgather_base(torch.zeros(world * 3), mine(3)),
        "all_gather_into_tensor_coalesced": lambda: group.allgather_into_tensor_coalesced(
            [torch.zeros(world * 3), torch.zeros(world * 2)], [mine(3), mine(2)]
        ),
        "reduce_scatter": lambda: dist.reduce_scatter(
            torch.zeros(3), [mine(3) for _ in range(world)], async_op=True
        ),
        "reduce_scatter_tensor": lambda: dist.reduce_scatter_tensor(
            torch.zeros(3), mine(world * 3), async_op=True
        ),
        "reduce_scatter_tensor_coalesced": lambda: group.reduce_scatter_tensor_coalesced(
            empty(2, 3), [mine(world * 3), mine(world * 3)]
        ),
        "gather": lambda: dist.gather(mine(3), empty(world, 3) if root else None, 0, async_op=True),
        "scatter": lambda: dist.scatter(
            torch.zeros(3), [mine(3) for _ in range(world)] if root else None, 0, async_op=True
        ),
        "all_to_all": lambda: dist.all_to_all(
            empty(world, 3), [mine(3) for _ in range(world)], async_op=True
        ),
        "all_to_all_single": lambda: dist.all_to_all_single(
            torch.zeros(world * 3), mine(world * 3), async_op=True
        ),
        "barrier": lambda: dist.barrier(async_op=True),
        "send": lambda: dist.isend(mine(3), 1) if root else dist.irecv(torch.zeros(3), 0),
    }


def look(state, bucket):
    """Fail unless each collective's future holds the form that state lists for this rank.

    ``state["forms"]`` has, by collective, the shapes for rank 0 and the other. Text stands
    for an error that this torch's gloo raises.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    wrong = []
    for name, expected in state["forms"].items():
        work = None
        try:
            work = calls(rank, world)[name]()
            seen = shapes(work.get_future().wait())
        except (RuntimeError, AttributeError) as error:
            if work is not None:
                work.wait()
            seen = str(error)
            if isinstance(expected[rank], str) and expected[rank] in seen:
                seen = expected[rank]
        if seen != expected[rank]:
            wrong.append(f"{name}: {seen}, not {expected[rank]}")
    if wrong:
        raise AssertionError("\n".join(wrong))
    return done(bucket.buffer())


def done(tensor):
    future = torch.futures.Future()
    future.set_result(tensor)
    return future


def gathers_in_callbacks(state, bucket):
    """The mean by two all_gathers, the second in a callback of the first, as for NCCL."""
    world = dist.get_world_size()
    flat = bucket.buffer()

    def gather(tensor):
        out = [torch.empty_like(tensor) for _ in range(world)]
        return dist.all_gather(out, tensor, async_op=True).get_future()

    def second(future):
        largest = future.value()[0].max()  # of all ranks
        return gather(flat / largest).then(lambda f: f.value()[0].mean(0) * largest).wait()

    def joined(futures):
        return futures.value()[0].value()

    first = gather(flat.abs().max().reshape(1))
    return torch.futures.collect_all([first]).then(joined).then(second)


def reduces_by_pieces(state, bucket):
    """The mean by reduce_scatter and all_gather_into_tensor, by their futures."""
    world = dist.get_world_size()
    flat = bucket.buffer()
    whole = torch.zeros(-(-flat.numel() // world) * world)
    whole[: flat.numel()] = flat
    piece = torch.empty(whole.numel() // world)

    def scattered(future):
        mine = future.value()[0] / world
        gathered = dist.all_gather_into_tensor(whole, mine, async_op=True).get_future()
        return gathered.wait()[0][: flat.numel()]

    return dist.reduce_scatter_tensor(piece, whole, async_op=True).get_future().then(scattered)


def fails_late(state, bucket):
    """A collective that fails: its future holds the error and no form."""
    future = dist.all_gather([torch.zeros(3)], torch.zeros(2), async_op=True).get_future()
    return future.then(lambda f: f.value()[0])


def quantisation(state, bucket):
    """PyTorch's own hook of that name. ``cuda(device)`` of torch 1.13's is ``to(device)`` here."""
    from torch.distributed.algorithms.ddp_comm_hooks import quantization_hooks

    for kind in (torch.Tensor, torch.nn.Module):
        kind.cuda = lambda self, device=None: self.to(device)
    return getattr(quantization_hooks, state["hook"])(None, bucket)


def functional_sum(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """A future that is done, of a tensor that is not."""
    return done(_functional(bucket.buffer()))


def _functional(tensor):
    from torch.distributed import _functional_collectives as functional

    half = tensor / dist.get_world_size()
    result = functional.all_reduce(half, "sum", dist.group.WORLD)
    assert type(result) is functional.AsyncCollectiveTensor
    return result


def functional_in_a_callback(state, bucket):
    future = dist.all_reduce(torch.zeros(1), async_op=True).get_future()
    return future.then(lambda f: _functional(bucket.buffer()))


def functional_view(state, bucket):
    """A view of it, which is one too."""
    return done(_functional(bucket.buffer().reshape(1, -1)).view(-1))
