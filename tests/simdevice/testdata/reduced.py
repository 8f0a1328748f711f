"""A trainer on the device, and PyTorch's own Reducer with the same gradients beside it."""

import contextlib
import os
import threading

import hooks
import torch
import torch.distributed as dist
from pyhook import load_hook
from pyhook._record.copies import Copy

torch.set_num_threads(1)
if "PYHOOK_TRAINER_CUDA" in os.environ:
    accelerator = torch.cuda
else:
    import simdevice  # noqa: F401

    accelerator = torch.sim


class Source:
    """The gradients of all steps of a rank.

    Args:
        dtypes: of the parameters, and own of the trainer's own gradients.
        infinite: the step with an infinity; -1: none.
        unused: one parameter has no gradient on rank 0, each step another one.
        micro: so many gradients are added up.
        last: rank 1 has so many steps; -1: as many as the others.
    """

    def __init__(self, shapes, dtypes, own, infinite, unused, micro, last):
        self.shapes, self.infinite, self.unused = [tuple(s) for s in shapes], infinite, unused
        self.micro, self.last = micro, last
        self.dtypes = [getattr(torch, dtype) for dtype in dtypes]
        self.own = [getattr(torch, dtype) for dtype in own]

    def parts(self, step, rank=None):
        """Of each parameter, the gradients that are added up; of this rank if none is named."""
        rank = dist.get_rank() if rank is None else rank
        made = torch.Generator().manual_seed(1000 * rank + step)
        found = [
            [torch.randn(shape, generator=made).to(own) for _ in range(self.micro)]
            for shape, own in zip(self.shapes, self.own)
        ]
        if step == self.infinite:
            found[2][0].view(-1)[5] = float("inf")
        if self.is_unused(step) >= 0:
            found[self.is_unused(step)] = [self.zeros(self.is_unused(step))]
        if rank == 1 and 0 <= self.last <= step:
            found = [[self.zeros(i)] for i in range(len(self.shapes))]
        return found

    def zeros(self, i):
        return torch.zeros(self.shapes[i], dtype=self.own[i])

    def is_unused(self, step):
        return step % len(self.shapes) if self.unused and dist.get_rank() == 0 else -1

    def sums(self, step, rank=None):
        return [sum(parts[1:], parts[0]) for parts in self.parts(step, rank)]

    def flat(self, step, rank=None):
        return torch.cat([value.reshape(-1) for value in self.sums(step, rank)])


def zeros(shape, dtype, device):
    return torch.zeros(tuple(shape), dtype=getattr(torch, dtype), device=device)


def new_stream(device):
    return accelerator.Stream(device)


def handle(stream, by_id):
    """The number of a stream for c10d.Stream: its handle, or its id where there are no handles."""
    if accelerator is torch.cuda:
        return stream.cuda_stream
    return stream.stream_id if by_id else stream.native_handle


def on(stream):
    return accelerator.stream(stream) if stream is not None else contextlib.nullcontext()


def produce(source, tensors, step, part, stream):
    """Write a step's gradients, or add them to those of before, on the trainer's stream, late."""
    with on(stream):
        for tensor, values in zip(tensors, source.parts(step)):
            if part == 0:
                tensor.fill_(0)
                tensor.copy_(values[0], non_blocking=True)
            elif part < len(values):
                tensor.add_(values[part].to(tensor.device, non_blocking=True))


def read(tensors, elsewhere, stream=None):
    """The values, read in the trainer's order or, elsewhere, on streams that wait for nothing."""
    flat = []
    for tensor in tensors:
        if tensor.device.type == "cpu":
            flat.append(tensor.reshape(-1).clone())
            continue
        where = accelerator.default_stream(tensor.device) if stream is None else stream
        with accelerator.stream(accelerator.Stream(tensor.device) if elsewhere else where):
            flat.append(tensor.reshape(-1).cpu())
    return torch.cat(flat)


def same(tensors, want, elsewhere=False, stream=None):
    """Whether the tensors are those bits."""
    got = read(tensors, elsewhere, stream)
    return torch.equal(got.view(torch.uint8), want.to(got.dtype).view(torch.uint8))


def later(tensors):
    """Enqueue on the trainer's stream that the values are copied."""
    return [tensor.clone() for tensor in tensors]


def limit(more):
    torch.sim.set_memory_limit(torch.sim.memory_allocated() + more if more else 0)


def reuse(on):
    if accelerator is not torch.cuda:
        torch.sim.set_reuse(on)


def delay(ms):
    if accelerator is not torch.cuda:
        torch.sim.set_delay(ms)


def late(which):
    torch.sim.late(which)


def as_new():
    """Put back what the cases before this one have set."""
    hooks.spoilt.clear()
    reuse(True)
    if accelerator is not torch.cuda:
        limit(0)
        delay(200)
        late("all")


def counted():
    """The bytes that came from the host and went to it, and how often an operation had it wait."""
    torch.sim.synchronize()
    counters = torch.sim.counters()
    return [int(counters[name]) for name in ("from_host", "to_host", "waits")]


def goes_on():
    """Whether the trainer's stream does what it has without what is not there yet."""
    from time import sleep

    for _ in range(300):
        if torch.sim.default_stream().query():
            return True
        sleep(0.01)
    return False


def recorded():
    """Whether a recording's copies are of when they were taken, whoever brings them to the CPU."""
    found = []
    for _ in range(3):
        values = torch.zeros(1000, device="sim")
        torch.sim.synchronize()
        stream = torch.sim.Stream()
        values.record_stream(stream)  # else it adds to what gets the memory next
        with stream:
            values.add_(3)
            taken = Copy(values)
            values.add_(5)
        writer = threading.Thread(target=lambda: found.append(taken.on_cpu()))
        writer.start()
        writer.join()
    return all(bool((copy == 3).all()) for copy in found) and len(found) == 3


def taken(shapes):
    """Memory of the trainer's that it writes at once, each rank something else."""
    return [torch.full(tuple(shape), 5.0 + dist.get_rank(), device="sim") for shape in shapes]


def untouched(tensors):
    """Whether it is still as ``taken`` wrote it, after all that was enqueued."""
    torch.sim.synchronize()
    return all(bool((tensor == 5 + dist.get_rank()).all()) for tensor in tensors)


def fill(tensor, value):
    tensor.fill_(value)


def is_(tensor, value):
    """Whether all elements are that, after what the trainer's stream has."""
    return bool((tensor.cpu() == value).all())


def allocated():
    """Bytes of the device that are in use, when it has nothing to do any more."""
    torch.sim.synchronize()
    torch.sim.synchronize(1)
    torch.empty(1, device="sim")  # the allocator looks at what streams are done with
    return torch.sim.memory_allocated()


def meet():
    dist.all_reduce(torch.zeros(1))


def synchronize():
    torch.sim.synchronize()


class Peer:
    """torch's Reducer, which calls the hook by c10d::PythonCommHook, with the same buckets."""

    def __init__(self, source, hook, state, devices, buckets):
        self.source = source
        self.params = [
            torch.nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))
            for shape, dtype, device in zip(source.shapes, source.dtypes, devices)
        ]
        self.reducer = dist.Reducer(
            self.params,
            buckets,
            [2**40] * len(buckets),
            dist.group.WORLD,
            [False] * len(self.params),
            param_to_name_mapping={i: f"p{i}" for i in range(len(self.params))},
        )
        if hook:
            dist._register_comm_hook(self.reducer, state, load_hook(hook))

    def step(self, step):
        """The reduced gradients of a step, flat."""
        for p in self.params:
            p.grad = None
        values = [
            v.to(p.device, p.dtype) for v, p in zip(self.source.sums(step), self.params)
        ]
        self.reducer.prepare_for_backward([])
        torch.autograd.backward(self.params, values)
        return read([p.grad for p in self.params], False)
