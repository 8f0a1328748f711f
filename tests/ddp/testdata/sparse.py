"""Stock DistributedDataParallel on models with sparse embeddings, and its logging data.

usage: sparse.py DIRECTORY    (reads sparse.json there; see sparse_test.go)

The gradients are given: of sum(embedding(rows) * g) the sparse gradient has the rows as
indices and g as values. Every rank writes the reduced gradients of all steps, and its
logging data.
"""

import contextlib
import json

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Model(torch.nn.Module):
    def __init__(self, case):
        super().__init__()
        self.layers = torch.nn.ModuleList()
        for p in case["params"]:
            rows, width = p["shape"]
            dtype = DTYPES[p["dtype"]]
            if p["sparse"]:
                layer = torch.nn.Embedding(rows, width, sparse=True, dtype=dtype)
            else:
                layer = torch.nn.Linear(width, rows, bias=False, dtype=dtype)
            self.layers.append(layer)

    def forward(self, step):
        loss = 0
        for layer, given in zip(self.layers, step):
            if given is None:
                continue
            values = torch.tensor(given["values"], dtype=layer.weight.dtype)
            if isinstance(layer, torch.nn.Embedding):
                out = layer(torch.tensor(given["rows"], dtype=torch.int64))
                loss = loss + torch.sum(out * values.view(out.shape)).double()
            else:
                weight = layer.weight
                loss = loss + torch.sum(weight * values.view(weight.shape)).double()
        return loss


def buckets_summed(state, bucket):
    """A hook of a user's own: a sum without the division, and a callback that doubles."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0] * 2)


HOOKS = {
    "allreduce": default_hooks.allreduce_hook,
    "fp16": default_hooks.fp16_compress_hook,
    "summed": buckets_summed,
}


def clear(module, in_place):
    for layer in module.layers:
        grad = layer.weight.grad
        if in_place and grad is not None and not grad.is_sparse:
            grad.zero_()
        else:
            layer.weight.grad = None


def run_case(case, folder, rank):
    dist._DEFAULT_FIRST_BUCKET_BYTES = case["first"]
    module = Model(case)
    ddp = DistributedDataParallel(
        module,
        bucket_cap_mb=case["cap"] / (1 << 20),
        find_unused_parameters=case["find"],
        gradient_as_bucket_view=case["view"],
        static_graph=case["static"],
    )
    if case["hook"] != "none":
        ddp.register_comm_hook(None, HOOKS[case["hook"]])
    error, orders = "", []
    for i, layer in enumerate(module.layers):
        layer.weight.register_hook(lambda grad, i=i: orders[-1].append(i))
    with open(folder / f"stock.{case['name']}.rank{rank}.bin", "wb") as out:
        for step, given in enumerate(case["steps"][rank]):
            orders.append([])
            if step == 0 or step - 1 != case["no_sync"]:
                clear(module, case["view"])
            with ddp.no_sync() if step == case["no_sync"] else contextlib.nullcontext():
                try:
                    ddp(given).backward()
                except Exception as problem:
                    error = str(problem)
                    break
            if step == case["no_sync"]:
                continue
            for layer in module.layers:
                grad = layer.weight.grad
                if grad.is_sparse:
                    coalesced = grad.coalesce()
                    out.write(coalesced.indices().numpy().tobytes())
                    out.write(coalesced.values().numpy().tobytes())
                else:
                    out.write(grad.numpy().tobytes())
    facts = {"torch": torch.__version__, "error": error, "orders": orders, "logging": dict(ddp._get_ddp_logging_data())}
    facts["first"] = case["cap"] if not torch.__version__.startswith("1.") else case["first"]
    (folder / f"stock.{case['name']}.rank{rank}.json").write_text(json.dumps(facts))


def run_cases(cases, folder, rank):
    for case in cases:
        run_case(case, folder, rank)
        if case["hook"] != "fp16":  # gloo's barrier raises what a collective before it did
            dist.barrier()


if __name__ == "__main__":
    import worlds

    worlds.run("sparse.json", run_cases)
