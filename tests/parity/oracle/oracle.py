#!/usr/bin/env python3
"""What PyTorch itself makes of a DDP communication hook.

The parity tests of pyhook ask one question: does a hook, run from Go, leave the very bytes in the
gradients that PyTorch's own Reducer would have left? This program produces the right-hand side
of that comparison. It drives a real ``dist.Reducer`` on real gloo ranks with seeded gradients,
and dumps what went in and what came out. No code of pyhook is involved.

    oracle.py CASE.json OUTDIR [--via reducer|ddp|direct]
    oracle.py --all OUTROOT CASE.json...      (one OUTROOT/<case name>/ per case, torch loaded once)

Exit codes: 0 dumped, 2 the case or the oracle is at fault, 3 PyTorch itself could not run the
case (OUTDIR/error.json says where and why). README.md describes the case file and the outputs.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

# Floating-point sums depend on how work is split between threads, so one thread is part of the
# contract with the Go side. It also keeps the parent free of threads, which makes fork() safe.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# Gloo otherwise resolves the host's name, which fails or is slow in containers and chroots.
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import torch  # noqa: E402  (the environment above must be set first)
import torch.distributed as dist  # noqa: E402

EXIT_OK, EXIT_BAD_CASE, EXIT_UPSTREAM = 0, 2, 3

DEFAULTS: dict[str, Any] = {
    "world": 2,
    "steps": 3,
    "seed": 1,
    "mode": "reducer",
    "hook": None,
    "hook_kwargs": {},
    "state": None,
    "serial": False,
    "gradient_as_bucket_view": False,
    "static_graph": False,
    "bucket_cap_mb": 25,
    "buckets": None,
    "optimizer": None,
    "init_scale": 1.0,
    "timeout_s": 120,
    "group_timeout_s": 60,
    "description": "",
}


class OracleError(Exception):
    """The case file or the oracle is at fault: nothing was learned about PyTorch."""


# ---------------------------------------------------------------------------------------------
# The case
# ---------------------------------------------------------------------------------------------


def load_case(path: Path) -> dict[str, Any]:
    """Read a case file, fill in defaults and refuse unknown keys (a typo must not pass)."""
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise OracleError(f"{path}: {e}") from e
    unknown = set(raw) - set(DEFAULTS) - {"params"}
    if unknown:
        raise OracleError(f"{path}: unknown keys {sorted(unknown)}")
    case = {**DEFAULTS, **raw, "name": path.stem}
    if not case.get("params"):
        raise OracleError(f"{path}: no params")
    if case["mode"] not in ("reducer", "optimizer", *DDP_SETUPS):
        raise OracleError(f"{path}: unknown mode {case['mode']!r}")
    if case["buckets"] is None:
        case["buckets"] = [list(range(len(case["params"])))]
    if sorted(i for b in case["buckets"] for i in b) != list(range(len(case["params"]))):
        raise OracleError(f"{path}: buckets must hold every parameter index exactly once")
    return case


def resolve(spec: str) -> Any:
    """Turn ``module:attribute.path`` into the object."""
    module, _, attribute = spec.partition(":")
    if not attribute:
        raise OracleError(f"{spec!r} is not module:name")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def resolve_hook(spec: str, *extra: Any) -> Callable[..., Any]:
    """Resolve ``module:hook`` or the nested ``module:factory(module:hook)``.

    ``extra`` is appended to the outermost factory's arguments: ``_hook_then_optimizer`` and the
    ZeRO hooks are factories that take objects a case file cannot hold.
    """
    nested = re.fullmatch(r"([^()]+)\((.*)\)", spec)
    if nested is None:
        return resolve(spec)
    factory = resolve(nested.group(1))
    inner = [resolve_hook(nested.group(2))] if nested.group(2) else []
    return factory(*inner, *extra)


def seeded(shape: Sequence[int], dtype: str, *key: int) -> torch.Tensor:
    """A tensor that depends on the key alone, so that every rank can make every other's."""
    generator = torch.Generator()
    mixed = 0
    for k in key:
        mixed = (mixed * 1_000_003 + k + 1) % (2**62)
    generator.manual_seed(mixed)
    wanted = getattr(torch, dtype)
    made_as = wanted if wanted in (torch.float64, torch.complex64, torch.complex128) else None
    return torch.randn(list(shape), generator=generator, dtype=made_as).to(wanted)


def initial_params(case: dict[str, Any]) -> list[torch.nn.Parameter]:
    """The parameters, equal on all ranks as they are in a trainer."""
    return [
        torch.nn.Parameter(
            seeded(p["shape"], p.get("dtype", "float32"), case["seed"], 999_983, i)
            * case["init_scale"]
        )
        for i, p in enumerate(case["params"])
    ]


def gradients(case: dict[str, Any], rank: int, step: int) -> list[torch.Tensor]:
    """The gradients that one rank contributes in one step."""
    return [
        seeded(p["shape"], p.get("dtype", "float32"), case["seed"], rank, step, i)
        for i, p in enumerate(case["params"])
    ]


def raw_bytes(tensors: Sequence[torch.Tensor]) -> bytes:
    """Concatenate the row-major bytes. ctypes, because numpy knows no bfloat16."""
    out = []
    for t in tensors:
        c = t.detach().contiguous()
        out.append(ctypes.string_at(c.data_ptr(), c.numel() * c.element_size()))
    return b"".join(out)


# ---------------------------------------------------------------------------------------------
# Process groups and state
# ---------------------------------------------------------------------------------------------


class _Work:
    """The two methods that hooks use of a Work object."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def get_future(self) -> Any:
        return self._future

    def wait(self, _timeout: Any = None) -> bool:
        self._future.wait()
        return True


class NcclShapedGroup:
    """Gloo's group, but all_gather's future has NCCL's shape: one stacked tensor.

    The quantization hooks index the future as NCCL makes it and cannot run on gloo. With this
    group they run unmodified under PyTorch's Reducer, so they still have an oracle.
    """

    def __init__(self, group: Any) -> None:
        self._group = group

    def rank(self) -> int:
        return self._group.rank()

    def size(self) -> int:
        return self._group.size()

    def allreduce(self, tensors: list[torch.Tensor], opts: Any = None) -> Any:
        return self._group.allreduce(tensors, opts or dist.AllreduceOptions())

    def allgather(
        self,
        outputs: list[list[torch.Tensor]],
        inputs: list[torch.Tensor],
        opts: Any = None,  # torch 2.14 passes it, 1.13 does not
    ) -> _Work:
        """Gather, then stack the outputs as NCCL's future does."""
        future = self._group.allgather(outputs, inputs).get_future()

        def stack(done: Any) -> list[torch.Tensor]:
            done.value()  # raises the transport's error, if there was one
            return [torch.stack(outputs[0])]

        return _Work(future.then(stack))


def subgroup(spec: Any) -> Any:
    """``"new_group"`` is a second group of all ranks; ``{"new_group": [[0,1],[2,3]]}`` splits."""
    everyone = [list(range(dist.get_world_size()))]
    lists = everyone if spec == "new_group" else spec["new_group"]
    mine = None
    for ranks in lists:  # every rank must take part in making every group
        made = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            mine = made
    return mine


def build_state(spec: Any) -> Any:
    """The hook's state: none, a group, or an object of a state class."""
    world = dist.group.WORLD
    if spec is None:
        return None
    if spec == "group":
        return world
    if spec == "group:nccl_futures":
        return NcclShapedGroup(world)
    if not isinstance(spec, dict):
        raise OracleError(f"unknown state {spec!r}")
    kwargs = dict(spec.get("kwargs", {}))
    if kwargs.get("subgroup") is not None:
        kwargs["subgroup"] = subgroup(kwargs["subgroup"])
    kwargs.setdefault("process_group", world)
    return resolve(spec["class"])(**kwargs)


# ---------------------------------------------------------------------------------------------
# Running the hook
# ---------------------------------------------------------------------------------------------


class Recorder:
    """Stands before the hook, notes which bucket came, and calls it unchanged.

    Keeping the notes here and judging them outside means that a broken layout is reported as
    the oracle's fault and never as the hook's.
    """

    def __init__(self, hook: Callable[..., Any], serial: bool, kwargs: dict[str, Any]) -> None:
        self.hook, self.serial, self.kwargs = hook, serial, kwargs
        self.index_of: dict[int, int] = {}
        self.seen: list[dict[str, Any]] = []

    def as_function(self) -> Callable[[Any, dist.GradBucket], Any]:
        """A plain function: DDP reads ``__name__`` and wants a parameter called bucket."""

        def recorded(state: Any, bucket: Any) -> Any:
            self.seen.append(
                {
                    "index": bucket.index(),
                    "numel": bucket.buffer().numel(),
                    "is_last": bucket.is_last(),
                    "params": [self.index_of.get(id(p), -1) for p in bucket.parameters()],
                }
            )
            future = self.hook(state, bucket, **self.kwargs)
            if self.serial:
                # A hook that starts collectives in callbacks mixes up ranks on gloo when two
                # buckets are in flight. The Reducer reports a failed future by itself.
                with contextlib.suppress(Exception):
                    future.wait()
            return future

        recorded.__annotations__ = {}  # DDP refuses annotations that are strings, as these are
        recorded.__name__ = getattr(self.hook, "__name__", "hook")
        recorded.__qualname__ = getattr(self.hook, "__qualname__", recorded.__name__)
        return recorded


class DirectBucket:
    """A bucket in plain Python, to see whether a hook runs at all outside any Reducer.

    Complex gradients are in a real buffer, as PyTorch has them from torch 2.14 on.
    """

    def __init__(self, index: int, last: bool, params: list[Any], grads: list[Any]) -> None:
        self._index, self._last, self._params = index, last, params
        flat = torch.cat([g.reshape(-1) for g in grads])
        self._buffer = torch.view_as_real(flat).view(-1) if flat.is_complex() else flat

    def index(self) -> int:
        return self._index

    def is_last(self) -> bool:
        return self._last

    def buffer(self) -> torch.Tensor:
        return self._buffer

    def set_buffer(self, buffer: torch.Tensor) -> None:
        self._buffer = buffer

    def parameters(self) -> list[Any]:
        return self._params

    def gradients(self) -> list[torch.Tensor]:
        flat = self._buffer
        if self._params[0].is_complex():
            flat = torch.view_as_complex(flat.view(-1, 2))
        parts = flat.split([p.numel() for p in self._params])
        return [part.view(p.shape) for part, p in zip(parts, self._params)]


class GivenGradients(torch.nn.Module):
    """A module whose backward pass yields exactly the gradients it is called with."""

    def __init__(self, params: list[torch.nn.Parameter]) -> None:
        super().__init__()
        self.params = torch.nn.ParameterList(params)

    def forward(self, grads: list[torch.Tensor]) -> torch.Tensor:
        total: Any = 0
        for p, g in zip(self.params, grads):
            total = total + (p * g).sum().to(torch.float64)
        return total


class Runner:
    """One rank's run of a case; the subclasses differ in who calls the hook."""

    def __init__(self, case: dict[str, Any], stage: Callable[[str], None]) -> None:
        self.case = case
        self.params = initial_params(case)
        self.fixed_layout = True
        stage("import")
        self.hook = None if self.builtin() else self.make_hook()
        self.recorder = (
            Recorder(self.hook, case["serial"], case["hook_kwargs"]) if self.hook else None
        )
        if self.recorder:
            self.recorder.index_of = {id(p): i for i, p in enumerate(self.params)}
        stage("state")
        self.state = build_state(case["state"])
        stage("register")
        self.register()

    def builtin(self) -> Optional[str]:
        """``None`` hook (the Reducer's own division) and the two hooks written in C++."""
        spec = self.case["hook"]
        if self.case["mode"] in DDP_SETUPS:
            return None
        if spec is None:
            return "none"
        return spec.split(":", 1)[1] if spec.startswith("builtin:") else None

    def make_hook(self) -> Callable[..., Any]:
        if self.case["mode"] != "optimizer":
            return resolve_hook(self.case["hook"])
        spec = self.case["optimizer"]
        state = resolve(
            "torch.distributed.algorithms.ddp_comm_hooks.optimizer_overlap_hooks:"
            "_OptimizerHookState"
        )
        functional = resolve(spec["class"])([], _allow_empty_param_list=True, **spec["kwargs"])
        return resolve_hook(self.case["hook"], state(functional))

    def register(self) -> None:
        raise NotImplementedError

    def step(self, grads: list[torch.Tensor]) -> None:
        raise NotImplementedError

    def results(self) -> list[Optional[torch.Tensor]]:
        return [p.grad for p in self.params]


class ReducerRunner(Runner):
    """PyTorch's Reducer with exactly the case's buckets.

    ``_rebuild_buckets`` is never called: DDP calls it before the second forward pass and it is
    what changes the layout. Without it the given bucket indices hold for the whole run.
    """

    def register(self) -> None:
        case = self.case
        self.reducer = dist.Reducer(
            self.params,
            case["buckets"],
            [2**40] * len(case["buckets"]),
            dist.group.WORLD,
            [False] * len(self.params),
            gradient_as_bucket_view=case["gradient_as_bucket_view"],
            param_to_name_mapping={i: p["name"] for i, p in enumerate(case["params"])},
        )
        if self.recorder:
            dist._register_comm_hook(self.reducer, self.state, self.recorder.as_function())
        elif self.builtin() != "none":
            dist._register_builtin_comm_hook(
                self.reducer, getattr(dist.BuiltinCommHookType, str(self.builtin()))
            )

    def step(self, grads: list[torch.Tensor]) -> None:
        for p in self.params:
            p.grad = None
        self.reducer.prepare_for_backward([])
        torch.autograd.backward(self.params, grads)


class DirectRunner(Runner):
    """No Reducer: call the hook, wait, cut the result up."""

    def register(self) -> None:
        if self.recorder is None:
            raise OracleError("--via direct needs a Python hook")
        self.function = self.recorder.as_function()
        self.reduced: list[Optional[torch.Tensor]] = []

    def step(self, grads: list[torch.Tensor]) -> None:
        buckets = self.case["buckets"]
        pending = []
        for i, members in enumerate(buckets):
            bucket = DirectBucket(
                i,
                i == len(buckets) - 1,
                [self.params[m] for m in members],
                [grads[m] for m in members],
            )
            pending.append((members, self.function(self.state, bucket)))
        self.reduced = [None] * len(self.params)
        for members, future in pending:
            flat = future.wait().reshape(-1)
            if self.params[members[0]].is_complex() and not flat.is_complex():
                flat = torch.view_as_complex(flat.view(-1, 2))
            offset = 0
            for m in members:
                p = self.params[m]
                part = flat[offset : offset + p.numel()]
                self.reduced[m] = part.view(p.shape).to(p.dtype)
                offset += p.numel()

    def results(self) -> list[Optional[torch.Tensor]]:
        return self.reduced


class DDPRunner(Runner):
    """DistributedDataParallel itself, with its checks and its own choice of buckets.

    For the hooks that need a DDP object, and to learn what users meet at registration. The
    layout is DDP's and is recorded, not prescribed.
    """

    def make_hook(self) -> Callable[..., Any]:
        if self.case["mode"] in DDP_SETUPS:
            return _unused_hook
        return super().make_hook()

    def register(self) -> None:
        case = self.case
        self.fixed_layout = False
        module = GivenGradients(self.params)
        options: dict[str, Any] = {
            "bucket_cap_mb": case["bucket_cap_mb"],
            "gradient_as_bucket_view": case["gradient_as_bucket_view"],
            "static_graph": case["static_graph"],
        }
        setup = DDP_SETUPS.get(case["mode"])
        if setup is not None:
            setup(self, module, options)
            return
        self.ddp = torch.nn.parallel.DistributedDataParallel(module, **options)
        if self.recorder:
            # DDP judges the hook by its name and signature, so it must see those of the hook.
            self.ddp._check_comm_hook(self.hook)
            self.ddp.register_comm_hook(self.state, self.recorder.as_function())
        elif self.builtin() != "none":
            self.ddp._register_builtin_comm_hook(
                getattr(dist.BuiltinCommHookType, str(self.builtin()))
            )

    def step(self, grads: list[torch.Tensor]) -> None:
        for p in self.params:
            p.grad = None
        self.ddp(grads).backward()


def _unused_hook(state: Any, bucket: Any) -> Any:
    """Placeholder until the DDP set-up has made the real one."""
    raise OracleError("the set-up installed no hook")


def _setup_zero(interleaved: bool) -> Callable[[DDPRunner, Any, dict[str, Any]], None]:
    """Either ZeRO hook around allreduce_hook, as test_zero_redundancy_optimizer.py does it."""

    def setup(runner: DDPRunner, module: Any, options: dict[str, Any]) -> None:
        hooks = "torch.distributed.algorithms.ddp_comm_hooks"
        spec = runner.case["optimizer"]
        runner.ddp = torch.nn.parallel.DistributedDataParallel(module, **options)
        zero = resolve("torch.distributed.optim:ZeroRedundancyOptimizer")(
            runner.ddp.parameters(),
            optimizer_class=resolve(spec["class"]),
            overlap_with_ddp=True,
            **spec["kwargs"],
        )
        factory = resolve(
            f"{hooks}.ddp_zero_hook:hook_with_zero_step{'_interleaved' if interleaved else ''}"
        )
        hook = factory(resolve(f"{hooks}.default_hooks:allreduce_hook"), runner.ddp, zero)
        recorder = runner.recorder
        assert recorder is not None
        recorder.hook = hook
        runner.ddp.register_comm_hook(None, recorder.as_function())

    return setup


def _setup_optimizer_in_backward(runner: DDPRunner, module: Any, options: dict[str, Any]) -> None:
    """``_apply_optim_in_backward_hook`` is installed by DDP when it finds such optimizers."""
    resolve(
        "torch.distributed.algorithms.ddp_comm_hooks.optimizer_overlap_hooks:"
        "_apply_optim_in_backward_hook"
    )
    spec = runner.case["optimizer"]
    apply = resolve("torch.distributed.optim:_apply_optimizer_in_backward")
    apply(resolve(spec["class"]), list(module.parameters()), spec["kwargs"])
    runner.ddp = torch.nn.parallel.DistributedDataParallel(module, **options)


def _setup_mixed_precision(runner: DDPRunner, module: Any, options: dict[str, Any]) -> None:
    """``_reducer_allreduce_and_upcast_hook`` is installed by DDP's native mixed precision."""
    resolve(
        "torch.distributed.algorithms.ddp_comm_hooks.mixed_precision_hooks:"
        "_reducer_allreduce_and_upcast_hook"
    )
    low = resolve("torch.nn.parallel.distributed:_MixedPrecision")(
        param_dtype=torch.float16, reduce_dtype=torch.float16, buffer_dtype=torch.float16
    )
    runner.ddp = torch.nn.parallel.DistributedDataParallel(module, mixed_precision=low, **options)


DDP_SETUPS: dict[str, Callable[[DDPRunner, Any, dict[str, Any]], None]] = {
    "zero": _setup_zero(interleaved=False),
    "zero_interleaved": _setup_zero(interleaved=True),
    "optimizer_in_backward": _setup_optimizer_in_backward,
    "mixed_precision": _setup_mixed_precision,
}

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


# ---------------------------------------------------------------------------------------------
# The parent
# ---------------------------------------------------------------------------------------------


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
    if case["mode"] in DDP_SETUPS:
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
