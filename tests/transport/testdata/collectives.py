"""Every collective that hooks use, on the default group. Each asserts its own result.

group_uses.py adds the cases that are more than one collective; `run` runs those, too.
"""

import traceback
import warnings

import torch
import torch.distributed as dist

warnings.filterwarnings("ignore", category=UserWarning)
_cases = {}


def case(function):
    _cases[function.__name__] = function
    return function


def names():
    return list(_cases)


def run(name):
    try:
        _cases[name](dist.get_rank(), dist.get_world_size())
    except Exception:
        return traceback.format_exc()
    return ""


def total(size):
    return size * (size - 1) // 2


def same(got, want):
    assert torch.equal(got, want), f"{got} is not {want}"


FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
COMPLEX = [torch.complex64, torch.complex128]


@case
def all_reduce_of_every_dtype(rank, size):
    for dtype in FLOATS + INTS + COMPLEX:
        x = torch.full((3, 2), rank, dtype=dtype)
        dist.all_reduce(x)
        same(x, torch.full((3, 2), total(size), dtype=dtype))
    x = torch.tensor([True, False, rank == 0])
    dist.all_reduce(x)
    same(x, torch.tensor([True, False, True]))


@case
def all_reduce_of_every_operation(rank, size):
    ranks = range(1, size + 1)
    product, either, both, odd = 1, 0, 7, 0
    for r in ranks:
        product, either, both, odd = product * r, either | r, both & r, odd ^ r
    for op, want in {
        "SUM": sum(ranks), "PRODUCT": product, "MIN": 1, "MAX": size,
        "BAND": both, "BOR": either, "BXOR": odd,
    }.items():  # fmt: skip
        x = torch.tensor([rank + 1])
        dist.all_reduce(x, op=getattr(dist.ReduceOp, op))
        same(x, torch.tensor([want]))
    x = torch.tensor([float(rank)])
    dist.all_reduce(x, op=dist.ReduceOp.AVG)
    same(x, torch.tensor([total(size) / size]))


@case
def all_reduce_of_odd_memory(rank, size):
    x = torch.zeros(4, 6)[:, ::2]
    x += rank
    dist.all_reduce(x)
    same(x, torch.full((4, 3), float(total(size))))
    for shape in [(), (0,), (5, 0)]:
        y = torch.full(shape, float(rank))
        dist.all_reduce(y)
        same(y, torch.full(shape, float(total(size))))
    z = torch.full((50001,), float(rank), requires_grad=True)
    dist.all_reduce(z)
    same(z.detach(), torch.full((50001,), float(total(size))))


@case
def all_reduce_async_with_then(rank, size):
    x = torch.tensor([float(rank)])
    work = dist.all_reduce(x, async_op=True)
    doubled = work.get_future().then(lambda f: f.value()[0] * 2)
    same(doubled.wait(), torch.tensor([2.0 * total(size)]))
    assert work.is_completed()
    assert work.is_success()
    assert work.wait()
    assert work.result()[0] is x


@case
def a_callback_that_waits_for_another_collective(rank, size):
    def again(future):
        y = future.value()[0].clone()
        dist.all_reduce(y)
        return y

    x = torch.tensor([float(rank)])
    out = dist.all_reduce(x, async_op=True).get_future().then(again).wait()
    same(out, torch.tensor([float(total(size) * size)]))


@case
def all_reduce_coalesced(rank, size):
    tensors = [torch.full((n,), float(rank)) for n in (1, 3)]
    tensors.append(torch.tensor([rank]))
    dist.all_reduce_coalesced(tensors[:2])
    same(tensors[0], torch.full((1,), float(total(size))))
    same(tensors[1], torch.full((3,), float(total(size))))


@case
def all_gather(rank, size):
    for dtype in [*FLOATS, *INTS, *COMPLEX, torch.bool]:
        out = [torch.zeros(2, dtype=dtype) for _ in range(size)]
        dist.all_gather(out, torch.full((2,), rank, dtype=dtype))
        same(torch.stack(out), torch.stack([torch.full((2,), r, dtype=dtype) for r in range(size)]))
    out = [torch.zeros(2) for _ in range(size)]
    value = dist.all_gather(out, torch.ones(2), async_op=True).get_future().wait()
    assert len(value) == size


@case
def all_gather_into_tensor(rank, size):
    function = getattr(dist, "all_gather_into_tensor", None) or dist._all_gather_base
    out = torch.zeros(2 * size)
    function(out, torch.full((2,), float(rank)))
    same(out, torch.arange(size).repeat_interleave(2).float())
    out = torch.zeros(size, 2)
    value = function(out, torch.full((2,), float(rank)), async_op=True).get_future().wait()
    assert (value[0] if isinstance(value, list) else value) is out
    same(out[size - 1], torch.full((2,), size - 1.0))


@case
def all_gather_coalesced(rank, size):
    out = [[torch.zeros(1), torch.zeros(2)] for _ in range(size)]
    dist.all_gather_coalesced(out, [torch.full((1,), float(rank)), torch.full((2,), rank + 10.0)])
    for r in range(size):
        same(out[r][0], torch.full((1,), float(r)))
        same(out[r][1], torch.full((2,), r + 10.0))


@case
def reduce_scatter(rank, size):
    out = torch.zeros(2)
    dist.reduce_scatter(out, [torch.full((2,), float(rank + r)) for r in range(size)])
    same(out, torch.full((2,), float(total(size) + rank * size)))


@case
def reduce_scatter_tensor(rank, size):
    function = getattr(dist, "reduce_scatter_tensor", None) or dist._reduce_scatter_base
    out = torch.zeros(2)
    function(out, torch.arange(2.0 * size) + rank)
    same(out, torch.tensor([2.0 * rank, 2.0 * rank + 1]) * size + total(size))


@case
def all_to_all_single(rank, size):
    out = torch.zeros(size, dtype=torch.int64)
    dist.all_to_all_single(out, torch.arange(size) + 10 * rank)
    same(out, torch.tensor([rank + 10 * r for r in range(size)]))
    # Uneven: r+1 elements to rank r, none from the last.
    sends = [r + 1 if rank < size - 1 else 0 for r in range(size)]
    gets = [rank + 1 if r < size - 1 else 0 for r in range(size)]
    out = torch.zeros(sum(gets))
    dist.all_to_all_single(out, torch.full((sum(sends),), float(rank)), gets, sends)
    same(out, torch.arange(size - 1).repeat_interleave(rank + 1).float())


@case
def all_to_all(rank, size):
    out = [torch.zeros(2) for _ in range(size)]
    dist.all_to_all(out, [torch.full((2,), 10.0 * rank + r) for r in range(size)])
    same(torch.stack(out)[:, 0], torch.tensor([10.0 * r + rank for r in range(size)]))


@case
def broadcast_and_reduce(rank, size):
    x = torch.full((3,), float(rank))
    dist.broadcast(x, src=size - 1)
    same(x, torch.full((3,), size - 1.0))
    x = torch.full((3,), float(rank))
    dist.reduce(x, dst=1)
    same(x, torch.full((3,), float(total(size) if rank == 1 else rank)))


@case
def gather_and_scatter(rank, size):
    out = [torch.zeros(2) for _ in range(size)] if rank == 1 else None
    dist.gather(torch.full((2,), float(rank)), out, dst=1)
    if out is not None:
        same(torch.stack(out)[:, 0], torch.arange(size).float())
    got = torch.zeros(2)
    dist.scatter(
        got, [torch.full((2,), r + 5.0) for r in range(size)] if rank == 1 else None, src=1
    )
    same(got, torch.full((2,), rank + 5.0))


@case
def object_collectives(rank, size):
    out = [None] * size
    dist.all_gather_object(out, {"rank": rank, "text": "x" * rank})
    assert out == [{"rank": r, "text": "x" * r} for r in range(size)]
    objects = [rank, "hello", None] if rank == 0 else [None] * 3
    dist.broadcast_object_list(objects, src=0)
    assert objects == [0, "hello", None]
    got = [None]
    dist.scatter_object_list(got, [{"to": r} for r in range(size)] if rank == 0 else None, src=0)
    assert got == [{"to": rank}]
    out = [None] * size if rank == 0 else None
    dist.gather_object(rank, out, dst=0)
    assert out == (list(range(size)) if rank == 0 else None)


@case
def send_and_recv(rank, size):
    if rank == 0:
        dist.send(torch.arange(4.0), dst=1)
        x = torch.zeros(4)
        dist.recv(x, src=1, tag=3)
        same(x, torch.arange(4.0) * 2)
    elif rank == 1:
        x = torch.zeros(4)
        dist.recv(x, src=0)
        dist.send(x * 2, dst=0, tag=3)
    right, left = (rank + 1) % size, (rank - 1) % size
    x = torch.zeros(1)
    works = [dist.isend(torch.tensor([float(rank)]), right), dist.irecv(x, left)]
    for work in works:
        work.wait()
    same(x, torch.tensor([float(left)]))
    y = torch.zeros(1)
    operations = [
        dist.P2POp(dist.isend, torch.tensor([float(rank)]), right),
        dist.P2POp(dist.irecv, y, left),
    ]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    same(y, torch.tensor([float(left)]))


@case
def barriers(rank, size):
    dist.barrier()
    dist.barrier(async_op=True).wait()
