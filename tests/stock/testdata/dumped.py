"""Stock DistributedDataParallel on the weights and gradients that a trainer wrote down.

usage: dumped.py DIRECTORY    (reads stock.json there; see stock.go)

Each rank reads the weights and gradients of each step, and writes the reduced gradients.
"""

import faulthandler

import hooked
import shipped
import torch
import worlds
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.nn.parallel import DistributedDataParallel


def power_sgd(ddp):
    state = powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=1, start_powerSGD_iter=2, min_compression_rate=1
    )
    ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)


def run_case(case, folder, rank):
    data = (folder / f"in.{case['name']}.rank{rank}.bin").read_bytes()
    module = hooked.Model(hooked.read(case, data)[0])
    ddp = DistributedDataParallel(module)
    if case["hook"] == "powersgd":
        power_sgd(ddp)
    elif case["hook"] != "none":
        ddp.register_comm_hook(None, {**hooked.HOOKS, **shipped.HOOKS}[case["hook"]])
    with open(folder / f"stock.{case['name']}.rank{rank}.bin", "wb") as out:
        for _ in range(case["steps"]):
            weights, data = hooked.read(case, data)
            gradients, data = hooked.read(case, data)
            with torch.no_grad():
                for p, w in zip(module.values, weights):
                    p.copy_(w)
                    p.grad = None
            ddp(gradients).backward()
            for p in module.values:
                out.write(hooked.raw(p.grad))


def run_cases(cases, folder, rank):
    faulthandler.dump_traceback_later(240, exit=True)  # stock DDP may hang: say where
    for case in cases:
        run_case(case, folder, rank)
    torch.distributed.barrier()


if __name__ == "__main__":
    worlds.run("stock.json", run_cases)
