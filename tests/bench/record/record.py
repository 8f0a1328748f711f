"""Times training steps under DDP with the hook alone, recorded, and after its recording has ended.

usage: record.py [STEPS]

Two ranks on gloo in processes forked of this one; three models of the same weights in each, whose
steps take turns. Prints the medians, and those of the ratios of neighbouring steps.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
import time

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

import pyhook

WIDTH, LAYERS, BATCH = 1024, 6, 64


def model(register):
    torch.manual_seed(1)
    layers = [torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)]
    ddp = DistributedDataParallel(torch.nn.Sequential(*layers), bucket_cap_mb=5)
    ddp.register_comm_hook(*register(ddp))
    optimizer = torch.optim.SGD(ddp.parameters(), lr=1e-3)
    x = torch.randn(BATCH, WIDTH)

    def step():
        optimizer.zero_grad()
        ddp(x).square().mean().backward()
        optimizer.step()

    return step


def rank(number, steps, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    hook = default_hooks.allreduce_hook

    def recorded(name, count):
        options = {"steps": count, "limit_gb": 50}
        return lambda ddp: pyhook.record(None, hook, f"{folder}/{name}", model=ddp, **options)

    sides = {
        "alone": model(lambda ddp: (None, hook)),
        "recorded": model(recorded("all", steps + 3)),
        "ended": model(recorded("one", 1)),
    }
    times = {name: [] for name in sides}
    for i in range(steps + 3):
        names = list(sides)
        for name in names[i % 3 :] + names[: i % 3]:
            dist.barrier()
            start = time.perf_counter()
            sides[name]()
            if i >= 3:  # DDP makes its buckets anew after the first
                times[name].append(time.perf_counter() - start)
    if number == 0:
        elements = LAYERS * (WIDTH + 1) * WIDTH
        print(f"torch {torch.__version__}, {elements:,} parameters, {steps} steps of each")
        for name, all_times in times.items():
            ratio = statistics.median(a / b for a, b in zip(all_times, times["alone"]))
            print(
                f"{name:9} {statistics.median(all_times) * 1e3:7.1f} ms a step, ratio {ratio:.3f}"
            )
    dist.barrier()
    dist.destroy_process_group()


def main():
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [fork.Process(target=rank, args=(n, steps, folder)) for n in range(2)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        sys.exit(any(process.exitcode for process in ranks))


if __name__ == "__main__":
    main()
