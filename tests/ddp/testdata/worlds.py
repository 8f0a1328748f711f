"""The ranks of PyTorch's side: for each world size of a plan, its cases in processes forked of this one."""

import faulthandler
import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist


def _run_rank(run_cases, cases, folder, rank, world, scratch):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=world
    )
    run_cases(cases, folder, rank)
    # Without the group's end: torch 2.6 holds the GIL there, and waits for a thread that may want it.
    sys.stdout.flush()
    os._exit(0)


def run(plan, run_cases):
    """Calls run_cases(cases, folder, rank) on every rank; plan is a file in the folder sys.argv[1]."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    faulthandler.enable()
    folder = Path(sys.argv[1])
    fork = multiprocessing.get_context("fork")  # torch is imported once
    for world, cases in json.loads((folder / plan).read_text()).items():
        with tempfile.TemporaryDirectory() as scratch:
            ranks = [
                fork.Process(
                    target=_run_rank,
                    args=(run_cases, cases, folder, rank, int(world), scratch),
                    daemon=True,
                )
                for rank in range(int(world))
            ]
            for p in ranks:
                p.start()
            for p in ranks:
                p.join()
            if any(p.exitcode for p in ranks):
                sys.exit(f"world {world}: exit codes {[p.exitcode for p in ranks]}")
