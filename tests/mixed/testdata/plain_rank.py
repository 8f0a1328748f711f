"""A rank of plain torch: env://, torch's Reducer and torch's own hooks.

Prints the reduced gradients of each step, as hexadecimal float32.
"""

import datetime
import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook


def main() -> None:
    steps, sizes = int(sys.argv[1]), [[int(n) for n in shape.split("x")] for shape in sys.argv[2:]]
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    first = {"fp16": default_hooks.fp16_compress_hook, "allreduce": default_hooks.allreduce_hook}
    reduce(first[os.environ["PYHOOK_MIXED_HOOK"]], None, steps, sizes)
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=2, start_powerSGD_iter=2)
    reduce(powerSGD_hook.powerSGD_hook, state, steps, sizes)
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # without gloo's destructors


def reduce(hook, state, steps, sizes) -> None:
    params = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    reducer = dist.Reducer(
        params, [list(range(len(params)))], [2**40], dist.group.WORLD, [False] * len(params)
    )
    dist._register_comm_hook(reducer, state, hook)
    lengths = [p.numel() for p in params]
    for step in range(steps):
        numbers = torch.arange(sum(lengths)) * 31 + dist.get_rank() * 17 + step * 7
        flat = (numbers % 257 - 128).float() / 128
        for p in params:
            p.grad = None
        reducer.prepare_for_backward([])
        grads = [g.view(p.shape) for g, p in zip(flat.split(lengths), params)]
        torch.autograd.backward(params, grads)
        print(torch.cat([p.grad.reshape(-1) for p in params]).numpy().tobytes().hex())


main()
