"""Trains a small float32 network of several buckets under stock DistributedDataParallel.

usage: train.py PLAN.json    (see ../recording.go)

For each case of the plan the ranks train once, and once more with the hook recorded; the weights
must be the same bits. PyTorch's own error, where it has one, is written down in place of a trace.
"""

import faulthandler
import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import pyhook
from pyhook._loading.load import build_state, load_hook


def network(sizes, dtype):
    torch.manual_seed(7)
    layers = []
    for a, b in zip(sizes, sizes[1:]):
        layers += [torch.nn.Linear(a, b), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1]).to(dtype)


def train(case, rank, folder):
    """Return the weights after the case's steps."""
    dtype = getattr(torch, case.get("dtype", "float32"))
    model = network(case["sizes"], dtype)
    # As newer ones, torch 1.13 is to let bucket_cap_mb count for the first bucket too.
    dist._DEFAULT_FIRST_BUCKET_BYTES = min(1 << 20, int(case["cap_mb"] * (1 << 20)))
    ddp = DistributedDataParallel(
        model,
        bucket_cap_mb=case["cap_mb"],
        gradient_as_bucket_view=case.get("view", False),
    )
    hook = load_hook(case["hook"])
    arguments = dict(case.get("state_args", {}))
    if "subgroup" in arguments:
        groups = [(ranks, dist.new_group(ranks)) for ranks in arguments["subgroup"]]
        (arguments["subgroup"],) = (group for ranks, group in groups if rank in ranks)
    state = build_state(case["state"], arguments) if case.get("state") else None
    if case.get("group"):
        state = [dist.new_group([one]) for one in range(dist.get_world_size())][rank]
    registered = (state, hook)
    if folder is not None:
        named = ddp if case.get("named", True) else None
        options = {"steps": case["record"], "every": case.get("every", 1), "model": named}
        registered = pyhook.record(state, hook, str(folder), **options)
    ddp.register_comm_hook(*registered)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    random = torch.Generator().manual_seed(100 + rank)
    torch.manual_seed(11)  # of hooks that draw from the global generator
    for _ in range(case["steps"]):
        x = torch.randn(16, case["sizes"][0], generator=random).to(dtype)
        y = torch.randn(16, case["sizes"][-1], generator=random).to(dtype)
        optimizer.zero_grad(set_to_none=not case.get("view", False))
        torch.nn.functional.mse_loss(ddp(x), y).backward()
        if case.get("clip"):  # changes gradients in place right after the reduction
            torch.nn.utils.clip_grad_norm_(model.parameters(), case["clip"])
        optimizer.step()
    return torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()])


def run_case(case, rank, folder):
    plain = train(case, rank, None)
    recorded = train(case, rank, folder / case["name"])
    alike = torch.equal(plain.view(torch.uint8), recorded.view(torch.uint8))
    return {"alike": alike}


def run_rank(cases, rank, world, folder, store):
    faulthandler.dump_traceback_later(180, exit=True)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}/store", rank=rank, world_size=world
    )
    for case in cases:
        try:
            facts = run_case(case, rank, folder)
        except Exception as error:
            facts = {"error": f"{type(error).__name__}: {error}", "where": traceback.format_exc()}
        (folder / f"{case['name']}.rank{rank}.json").write_text(json.dumps(facts))
    dist.destroy_process_group()


def main():
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    plan = Path(sys.argv[1])
    fork = multiprocessing.get_context("fork")  # torch is imported once
    for world, cases in json.loads(plan.read_text()).items():
        with tempfile.TemporaryDirectory() as store:
            ranks = [
                fork.Process(
                    target=run_rank, args=(cases, rank, int(world), plan.parent, store), daemon=True
                )
                for rank in range(int(world))
            ]
            for p in ranks:
                p.start()
            for p in ranks:
                p.join()
            if any(p.exitcode for p in ranks):
                sys.exit(f"world {world}: exit codes {[p.exitcode for p in ranks]}")


if __name__ == "__main__":
    main()
