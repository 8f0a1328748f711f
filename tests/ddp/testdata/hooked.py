"""Stock DistributedDataParallel with given gradients: complex ones, and hooks that use weights.

usage: hooked.py DIRECTORY    (reads hooked.json there; see hooked_test.go)

Of each case every rank writes the gradients and then the weights after each step; or, where
this torch's DDP cannot run it, the error.
"""

import json

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

modes = []
"""Whether autograd was on, in each hook call."""


def updates(state, bucket):
    """Steps the weights by the local gradients, in the hook, and then reduces these."""
    modes.append(torch.is_grad_enabled())
    for p, g in zip(bucket.parameters(), bucket.gradients()):
        p.add_(g, alpha=-0.5)
    return default_hooks.allreduce_hook(state, bucket)


def by_norm(state, bucket):
    """Scales each gradient by its weight's norm."""
    modes.append(torch.is_grad_enabled())
    assert not bucket.buffer().requires_grad
    for p, g in zip(bucket.parameters(), bucket.gradients()):
        g.mul_(p.norm())
    return default_hooks.allreduce_hook(state, bucket)


def doubled(state, bucket):
    """The mean of doubled gradients, in other memory and of double precision."""
    value = bucket.buffer().double() * 2 / dist.get_world_size()
    dist.all_reduce(value)
    future = torch.futures.Future()
    future.set_result(value)
    return future


HOOKS = {
    "allreduce": default_hooks.allreduce_hook,
    "fp16": default_hooks.fp16_compress_hook,
    "updates": updates,
    "by_norm": by_norm,
    "doubled": doubled,
}


class Given(torch.autograd.Function):
    @staticmethod
    def forward(ctx, parameter, gradient):
        ctx.gradient = gradient
        return torch.zeros((), dtype=torch.float64)

    @staticmethod
    def backward(ctx, _):
        return ctx.gradient.clone(), None


class Model(torch.nn.Module):
    def __init__(self, values):
        super().__init__()
        self.values = torch.nn.ParameterList([torch.nn.Parameter(v) for v in values])

    def forward(self, gradients):
        return sum(Given.apply(p, g) for p, g in zip(self.values, gradients))


def read(case, data):
    """One tensor of each parameter, off the front of data."""
    out, offset = [], 0
    for p in case["params"]:
        dtype = getattr(torch, p["dtype"])
        end = offset + p["bytes"]
        out.append(torch.frombuffer(bytearray(data[offset:end]), dtype=dtype).view(p["shape"]))
        offset = end
    return out, data[offset:]


def raw(tensor):
    return tensor.detach().reshape(-1).numpy().tobytes()


def run_case(case, folder, rank):
    data = (folder / f"in.{case['name']}.rank{rank}.bin").read_bytes()
    weights, data = read(case, data)
    module = Model(weights)
    ddp = DistributedDataParallel(
        module, bucket_cap_mb=case["cap"] / (1 << 20), gradient_as_bucket_view=case["view"]
    )
    if case["hook"] != "none":
        ddp.register_comm_hook(None, HOOKS[case["hook"]])
    with open(folder / f"stock.{case['name']}.rank{rank}.bin", "wb") as out:
        for step in range(case["steps"]):
            gradients, data = read(case, data)
            for p in module.values:
                if case["view"] and step:
                    p.grad.zero_()
                else:
                    p.grad = None
            ddp(gradients).backward()
            for p in module.values:
                out.write(raw(p.grad))
            for p in module.values:
                out.write(raw(p))


def run_cases(cases, folder, rank):
    for case in cases:
        error = ""
        modes.clear()
        try:
            run_case(case, folder, rank)
        except RuntimeError as problem:
            error = str(problem)
        facts = {"error": error, "modes": modes}
        (folder / f"stock.{case['name']}.rank{rank}.json").write_text(json.dumps(facts))
    if not error:  # gloo's barrier raises what a collective before it did
        dist.barrier()


if __name__ == "__main__":
    import worlds

    worlds.run("hooked.json", run_cases)
