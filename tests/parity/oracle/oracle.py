#!/usr/bin/env python3
"""What PyTorch itself makes of a DDP communication hook.

The parity tests of pyhook ask one question: does a hook, run from Go, leave the very bytes in the
gradients that PyTorch's own Reducer would have left? This program produces the right-hand side
of that comparison. It drives a real ``dist.Reducer`` on real gloo ranks with seeded gradients,
and dumps what went in and what came out. No code of pyhook is involved.

    oracle.py CASE.json OUTDIR [--via reducer|ddp|direct]
    oracle.py --all OUTROOT CASE.json...      (one OUTROOT/<case name>/ per case, torch loaded once)

Exit codes: 0 dumped, 2 the case or the oracle is at fault, 3 PyTorch itself could not run the
case (OUTDIR/error.json says where and why). README.md describes the case file and the outputs,
and says which file holds what: this one is the command line and the parent of the ranks.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from oracle_case import DDP_MODES, OracleError, load_case
from oracle_rank import RUNNERS, run_rank
from oracle_torch import torch

EXIT_OK, EXIT_BAD_CASE, EXIT_UPSTREAM = 0, 2, 3


def _child(
    case: dict[str, Any], via: str, rank: int, out: Path, scratch: Path, parent: int
) -> None:
    """First code of a forked rank: own log file, and no life after the parent's."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
    fd = os.open(out / f"log.rank{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    run_rank(case, via, rank, out, scratch)


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


def run_case(case: dict[str, Any], via: str, out: Path) -> int:
    """Fork the ranks, watch them, and write meta.json or error.json. Never hangs."""
    if out.exists():
        for old in [*out.glob("*.bin"), *out.glob("*.json"), *out.glob("log.rank*.txt")]:
            old.unlink()
    out.mkdir(parents=True, exist_ok=True)
    if case["mode"] in DDP_MODES:
        via = "ddp"
    scratch = Path(tempfile.mkdtemp(prefix="oracle-"))
    fork = multiprocessing.get_context("fork")
    deadline = time.monotonic() + case["timeout_s"]
    ranks = [
        fork.Process(target=_child, args=(case, via, r, out, scratch, os.getpid()), daemon=True)
        for r in range(case["world"])
    ]
    hung: list[int] = []
    try:
        for process in ranks:
            process.start()
        while any(p.is_alive() for p in ranks):
            time.sleep(0.01)
            # One rank's failure leaves the others waiting for it: a short grace, then the end.
            gone = [p for p in ranks if not p.is_alive()]
            failed = any(p.exitcode != 0 for p in gone) or any(
                not json.loads(f.read_text())["ok"] for f in scratch.glob("rank*.json")
            )
            if failed:
                deadline = min(deadline, time.monotonic() + 5)
            if time.monotonic() > deadline:
                hung = [r for r, p in enumerate(ranks) if p.is_alive()]
                break
    finally:
        for process in ranks:
            if process.pid is not None:
                process.kill()
                process.join()
    verdicts: dict[int, dict[str, Any]] = {
        v["rank"]: v for v in (json.loads(f.read_text()) for f in scratch.glob("rank*.json"))
    }
    shutil.rmtree(scratch, ignore_errors=True)
    crashed = {
        r: _signal_name(p.exitcode or 0)
        for r, p in enumerate(ranks)
        if r not in hung and r not in verdicts
    }
    return conclude(case, via, out, verdicts, crashed, hung)


def conclude(
    case: dict[str, Any],
    via: str,
    out: Path,
    verdicts: dict[int, dict[str, Any]],
    crashed: dict[int, str],
    hung: list[int],
) -> int:
    """Find the root cause among the ranks' ends and write it down.

    An error that was raised says more than a crash of a peer, which says more than a rank that
    waited for either; among errors the earliest is the cause and the rest are its echo.
    """
    about = {
        "case": case["name"],
        "via": via,
        "torch": torch.__version__,
        "torch_keys": [torch.__version__, ".".join(torch.__version__.split(".")[:2])],
        "python": ".".join(map(str, sys.version_info[:3])),
        "threads": 1,
        "world": case["world"],
        "steps": case["steps"],
    }
    errors = sorted((v for v in verdicts.values() if not v["ok"]), key=lambda v: v["at"])
    own = [v for v in errors if v["oracle"]]
    raised = own or errors
    if not raised and not crashed and not hung:
        first = verdicts[0]
        for v in verdicts.values():
            if v["buckets"] != first["buckets"]:
                print(f"oracle: rank {v['rank']} saw other buckets than rank 0", file=sys.stderr)
                return EXIT_BAD_CASE
        about.update(
            params=case["params"], buckets=first["buckets"], without_grad=first["without_grad"]
        )
        (out / "meta.json").write_text(json.dumps(about, indent=1) + "\n")
        return EXIT_OK
    if raised:
        cause = {k: raised[0][k] for k in ("stage", "type", "message", "traceback", "rank")}
    elif crashed:
        rank, how = min(crashed.items())
        tail = (out / f"log.rank{rank}.txt").read_text(errors="replace").strip()[-2000:]
        cause = {"stage": "run", "type": "Crash", "rank": rank}
        cause["message"] = f"rank {rank} killed by {how}\n{tail}".strip()
    else:
        cause = {"stage": "run", "type": "Timeout", "rank": hung[0]}
        cause["message"] = f"ranks {hung} still running after {case['timeout_s']} s"
    about.update(cause, crashed=crashed, hung=hung)
    (out / "error.json").write_text(json.dumps(about, indent=1) + "\n")
    return EXIT_BAD_CASE if own else EXIT_UPSTREAM


def describe(code: int, out: Path) -> str:
    """One line for the terminal."""
    if code == EXIT_OK:
        return "ok"
    try:
        error = json.loads((out / "error.json").read_text())
    except OSError:
        return "oracle error"
    first = (error["message"].splitlines() or [""])[0]
    return f"{error['stage']}: {error['type']}: {first}"


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", metavar="OUTROOT", help="run many cases, torch loaded once")
    parser.add_argument("--via", choices=sorted(RUNNERS), default="reducer")
    parser.add_argument("files", nargs="+", metavar="CASE.json [OUTDIR]")
    args = parser.parse_args(argv)
    if args.all:
        jobs = [(Path(f), Path(args.all) / Path(f).stem) for f in args.files]
    elif len(args.files) == 2:
        jobs = [(Path(args.files[0]), Path(args.files[1]))]
    else:
        parser.error("give CASE.json and OUTDIR")
    worst = EXIT_OK
    for path, out in jobs:
        began = time.monotonic()
        try:
            case = load_case(path)
            code = run_case(case, args.via, out)
        except OracleError as e:
            print(f"oracle: {e}", file=sys.stderr)
            worst = EXIT_BAD_CASE
            continue
        took = time.monotonic() - began
        print(f"{case['name']}: exit {code} in {took:.1f} s: {describe(code, out)}", flush=True)
        worst = code if worst == EXIT_OK or code == EXIT_BAD_CASE else worst
    return worst


if __name__ == "__main__":
    sys.exit(main())
