"""Memory and streams of a GPU, hooks for them, and PyTorch's own Reducer beside Go."""

import torch
import torch.distributed as dist
from pyhook import load_hook

_streams = []  # a handle is good for as long as its stream is kept


def why_not():
    """Why there is no GPU, or ""."""
    if not torch.cuda.is_available():
        return "there is no GPU that torch can use"
    if not dist.is_nccl_available():
        return "this torch has no nccl"
    return ""


def name():
    return torch.cuda.get_device_name(0)


def new_stream():
    _streams.append(torch.cuda.Stream())
    return _streams[-1].cuda_stream


def on(handle):
    return torch.cuda.stream(torch.cuda.ExternalStream(handle))


def zeros(elements):
    return torch.zeros(elements, device="cuda")


def gradients(elements, step):
    made = torch.Generator().manual_seed(100 + step)
    return torch.randn(elements, generator=made)


def write(handle, buffer, step, cycles=0):
    """Enqueue that the buffer gets the gradients of a step, some clock cycles from now."""
    values = gradients(buffer.numel(), step).cuda()
    torch.cuda.synchronize()
    with on(handle):
        if cycles:
            torch.cuda._sleep(cycles)
        buffer.copy_(values)
        values.record_stream(torch.cuda.current_stream())


def busy(handle):
    return not torch.cuda.ExternalStream(handle).query()


def read(handle, tensor):
    """The values, when all that is on the stream has run."""
    with on(handle):
        return tensor.cpu()


def allocated():
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


class Peer:
    """torch's Reducer, which calls the hook by c10d::PythonCommHook, with one bucket."""

    def __init__(self, hook, state, sizes):
        self.params = [torch.nn.Parameter(torch.zeros(tuple(size), device="cuda")) for size in sizes]
        self.reducer = dist.Reducer(
            self.params,
            [list(range(len(sizes)))],
            [2**40],
            dist.group.WORLD,
            [False] * len(sizes),
            param_to_name_mapping={i: f"p{i}" for i in range(len(sizes))},
        )
        dist._register_comm_hook(self.reducer, state, load_hook(hook))

    def step(self, step):
        """The reduced gradients of a step, flat."""
        for p in self.params:
            p.grad = None
        total = sum(p.numel() for p in self.params)
        parts = gradients(total, step).cuda().split([p.numel() for p in self.params])
        self.reducer.prepare_for_backward([])
        torch.autograd.backward(
            self.params, [part.view(p.shape) for part, p in zip(parts, self.params)]
        )
        return torch.cat([p.grad.reshape(-1) for p in self.params]).cpu()


def same(got, want):
    """Bit for bit, once cast as the Reducer casts: fp16_wrapper leaves its result in float16."""
    return torch.equal(got.to(want.dtype).view(torch.int32), want.view(torch.int32))


def doubled_elsewhere(state, bucket):
    """Computes on a stream of its own, as a hook may; its future knows when it is done."""
    mine = torch.cuda.Stream()
    mine.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(mine):
        torch.cuda._sleep(100_000_000)
        result = bucket.buffer() * 2
        future = torch.futures.Future(devices=[result.device])
        future.set_result(result)
    return future


def on_the_cpu(state, bucket):
    future = torch.futures.Future()
    future.set_result(bucket.buffer().cpu())
    return future


def raises(state, bucket):
    raise ValueError("on the GPU")
