"""Stock DistributedDataParallel on seeded models: what the Go reducer is compared with.

usage: stock.py DIRECTORY    (reads plan.json there; see plan_test.go)

Of each case every rank writes the reduced gradients of all steps, and as JSON the order in which
gradients became ready and the sizes of the buckets.
"""

import contextlib
import json
import sys

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

DTYPES = {"float32": torch.float32, "float64": torch.float64}
NONE = 0xAA  # every byte of a gradient that stayed None


class Model(torch.nn.Module):
    """A model whose gradients are given: of sum(p * g) it is g."""

    def __init__(self, case):
        super().__init__()
        self.values = torch.nn.ParameterList(
            [
                torch.nn.Parameter(torch.ones(p["shape"], dtype=DTYPES[p["dtype"]]))
                for p in case["params"]
            ]
        )

    def forward(self, grads):
        return sum(torch.sum(p * g).double() for p, gs in zip(self.values, grads) for g in gs)


def read_gradients(case, folder, rank):
    """By step and parameter: none for an unused one, two for a shared one."""
    data = (folder / f"in.{case['model']}.rank{rank}.bin").read_bytes()
    steps, offset = [], 0
    for used in case["used"][rank]:
        step = []
        for p, count in zip(case["params"], used):
            dtype, grads = DTYPES[p["dtype"]], []
            for _ in range(count):
                flat = torch.frombuffer(bytearray(data[offset : offset + p["bytes"]]), dtype=dtype)
                grads.append(flat.view(p["shape"]))
                offset += p["bytes"]
            step.append(grads)
        steps.append(step)
    assert offset == len(data)
    return steps


def make_hook(name, sizes):
    """The hook, which also notes each bucket's size, and is waited for."""
    if name == "none":
        return None, None
    state, run = (
        None,
        getattr(default_hooks, {"fp16": "fp16_compress"}.get(name, name) + "_hook", None),
    )
    if name == "powersgd":
        run = powerSGD_hook.powerSGD_hook
        state = powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=2, start_powerSGD_iter=2, min_compression_rate=1
        )

    def hook(state, bucket):
        sizes[-1].append(bucket.buffer().numel())
        value = run(state, bucket).wait()
        done = torch.futures.Future()
        done.set_result(value)
        return done

    return state, hook


def clear(parameters, in_place):
    for p in parameters:
        if in_place and p.grad is not None:
            p.grad.zero_()
        else:
            p.grad = None


def run_case(case, folder, rank):
    cap, first = case["cap"], case["first"]
    dist._DEFAULT_FIRST_BUCKET_BYTES = first
    if not torch.__version__.startswith("1."):
        first = cap  # where the cap is given
    module = Model(case)
    orders, sizes = [], []
    for i, p in enumerate(module.values):
        p.register_hook(lambda grad, i=i: orders[-1].append(i))
    ddp = DistributedDataParallel(
        module,
        bucket_cap_mb=cap / (1 << 20),
        find_unused_parameters=case["find"],
        gradient_as_bucket_view=case["view"],
        static_graph=case["static"],
    )
    state, hook = make_hook(case["hook"], sizes)
    if hook is not None:
        ddp.register_comm_hook(state, hook)
    with open(folder / f"stock.{case['name']}.rank{rank}.bin", "wb") as out:
        for step, grads in enumerate(read_gradients(case, folder, rank)):
            orders.append([])
            sizes.append([])
            if step - 1 != case["no_sync"]:
                clear(module.values, case["view"])
            with ddp.no_sync() if step == case["no_sync"] else contextlib.nullcontext():
                ddp(grads).backward()
            for p, description in zip(module.values, case["params"]):
                none = bytes([NONE]) * description["bytes"]
                out.write(none if p.grad is None else p.grad.numpy().tobytes())
    facts = {"torch": torch.__version__, "first": first, "orders": orders, "sizes": sizes}
    (folder / f"stock.{case['name']}.rank{rank}.json").write_text(json.dumps(facts))


def run_cases(cases, folder, rank):
    for case in cases:
        try:
            run_case(case, folder, rank)
        except BaseException:
            print("rank", rank, "case", case["name"], file=sys.stderr, flush=True)
            raise
    dist.barrier()


if __name__ == "__main__":
    import worlds

    worlds.run("plan.json", run_cases)
