"""One rank: joins the group, runs the case step by step and dumps what went in and came out."""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from oracle_case import OracleError, gradients, raw_bytes
from oracle_ddp import DDPRunner
from oracle_runners import DirectRunner, ReducerRunner, Runner
from oracle_torch import dist, torch

RUNNERS: dict[str, type[Runner]] = {
    "reducer": ReducerRunner,
    "ddp": DDPRunner,
    "direct": DirectRunner,
}


def check_layout(case: dict[str, Any], seen: list[dict[str, Any]], step: int) -> None:
    """Every bucket once, in order, with the case's parameters in the case's order.

    From torch 2.14 on, a bucket of complex parameters has a real buffer of twice the length.
    """
    numels = [torch.Size(p["shape"]).numel() for p in case["params"]]
    wanted: list[dict[str, Any]] = [
        {
            "index": i,
            "numel": sum(numels[m] for m in members),
            "is_last": i == len(case["buckets"]) - 1,
            "params": list(members),
        }
        for i, members in enumerate(case["buckets"])
    ]
    for want, got in zip(wanted, seen):
        dtypes = {case["params"][m].get("dtype", "float32") for m in want["params"]}
        if all(d.startswith("complex") for d in dtypes) and got["numel"] == 2 * want["numel"]:
            want["numel"] = got["numel"]
    if seen != wanted:
        raise OracleError(f"step {step}: buckets {seen}, the case wants {wanted}")


def run_rank(case: dict[str, Any], via: str, rank: int, out: Path, scratch: Path) -> None:
    """Body of one rank. Leaves its verdict in scratch/rank{r}.json for the parent."""
    stages = ["init"]
    log: list[list[dict[str, Any]]] = []
    without_grad: list[list[int]] = []
    verdict: dict[str, Any] = {"rank": rank}
    try:
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo",
            init_method=f"file://{scratch}/store",
            rank=rank,
            world_size=case["world"],
            timeout=datetime.timedelta(seconds=case["group_timeout_s"]),
        )
        runner = RUNNERS[via](case, stages.append)
        if rank == 0:
            (out / "initial.bin").write_bytes(raw_bytes(runner.params))
        for step in range(case["steps"]):
            stages.append(f"step {step}")
            grads = gradients(case, rank, step)
            (out / f"in.rank{rank}.step{step}.bin").write_bytes(raw_bytes(grads))
            if runner.recorder:
                runner.recorder.seen = []
            runner.step(grads)
            if runner.recorder:
                log.append(runner.recorder.seen)
                if runner.fixed_layout:
                    check_layout(case, runner.recorder.seen, step)
            reduced = runner.results()
            without_grad.append([i for i, g in enumerate(reduced) if g is None])
            filled = [
                torch.zeros_like(p) if g is None else g for p, g in zip(runner.params, reduced)
            ]
            (out / f"out.rank{rank}.step{step}.bin").write_bytes(raw_bytes(filled))
            if case["mode"] != "reducer":
                (out / f"params.rank{rank}.step{step}.bin").write_bytes(raw_bytes(runner.params))
        stages.append("end")
        dist.barrier()  # nobody leaves while another rank still reads from its socket
        verdict.update(ok=True, buckets=log, without_grad=without_grad)
    except BaseException as e:
        verdict.update(
            ok=False,
            oracle=isinstance(e, OracleError),
            stage=stages[-1],
            type=f"{type(e).__module__}.{type(e).__qualname__}".replace("builtins.", ""),
            message=str(e),
            traceback=traceback.format_exc(),
            at=time.monotonic(),
        )
        traceback.print_exc()
    verdict["stage"] = stages[-1]
    partial = scratch / f"rank{rank}.part"
    partial.write_text(json.dumps(verdict))
    partial.rename(scratch / f"rank{rank}.json")
    sys.stdout.flush()
    sys.stderr.flush()
    # Tearing gloo down after a failure can hang, and after success it has nothing left to do.
    os._exit(0)
