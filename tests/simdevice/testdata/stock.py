"""Stock DistributedDataParallel on the device over simccl, beside itself on the CPU over gloo.

    stock.py RANK SIZE STORE

Prints JSON: for each hook, the digest of the weights after some steps on "cpu" and on "sim".
"""

import hashlib
import json
import sys

import simdevice  # noqa: F401
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

STEPS = 6


def own_stream(waits):
    """A hook that computes on a stream of its own, whose future knows of it or not."""

    def hook(state, bucket):
        if bucket.buffer().device.type == "cpu":
            future = torch.futures.Future()
            future.set_result(bucket.buffer() * 2)
            return future
        mine = torch.sim.Stream()
        if waits:
            mine.wait_stream(torch.sim.current_stream())
        with mine:
            result = bucket.buffer() * 2
            bucket.buffer().record_stream(mine)
        with mine if waits else torch.sim.current_stream():
            future = torch.futures.Future(devices=[result.device])
            future.set_result(result)
        return future

    return hook


def power_sgd():
    return powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=2, start_powerSGD_iter=2)


# Name: the bucket's size in MB (PowerSGD's collectives in callbacks want one bucket on gloo), and
# the state and hook.
HOOKS = {
    "none": (0.02, lambda: None),
    "allreduce": (0.02, lambda: (None, default_hooks.allreduce_hook)),
    "fp16": (0.02, lambda: (None, default_hooks.fp16_compress_hook)),
    "bf16": (0.02, lambda: (None, default_hooks.bf16_compress_hook)),
    "powersgd": (100, lambda: (power_sgd(), powerSGD_hook.powerSGD_hook)),
    "fp16_powersgd": (
        100,
        lambda: (power_sgd(), default_hooks.fp16_compress_wrapper(powerSGD_hook.powerSGD_hook)),
    ),
    "own_stream": (0.02, lambda: (None, own_stream(waits=True))),
    "own_stream_unknown": (0.02, lambda: (None, own_stream(waits=False))),
    "powersgd_freed": (100, lambda: (power_sgd(), powerSGD_hook.powerSGD_hook)),
}


def train(name, device, rank):
    torch.manual_seed(0)
    relu = torch.nn.ReLU
    layers = [
        torch.nn.Linear(64, 128),
        relu(),
        torch.nn.Linear(128, 128),
        relu(),
        torch.nn.Linear(128, 10),
    ]
    model = torch.nn.Sequential(*layers).to(device)
    size, hook = HOOKS[name]
    ddp = torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=size)
    if hook():
        ddp.register_comm_hook(*hook())
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    made = torch.Generator().manual_seed(100 + rank)
    for _ in range(STEPS):
        x = torch.randn(8, 64, generator=made).to(device)
        y = torch.randint(10, (8,), generator=made).to(device)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(ddp(x), y).backward()
        optimizer.step()
    weights = torch.cat([p.detach().cpu().reshape(-1) for p in model.parameters()])
    return hashlib.sha256(weights.numpy().tobytes()).hexdigest()


def main():
    rank, size, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group(
        "cpu:gloo,sim:simccl", init_method=f"file://{store}", rank=rank, world_size=size
    )
    found = {}
    for name in HOOKS:
        # powerSGD_hook frees memory that another stream still reads, on a GPU too.
        torch.sim.set_reuse("powersgd" not in name or name == "powersgd_freed")
        found[name] = {device: train(name, device, rank) for device in ("cpu", "sim")}
    dist.barrier()
    dist.destroy_process_group()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
