"""Who calls the hook: PyTorch's Reducer, or the oracle itself (for DDP see oracle_ddp.py)."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Optional

from oracle_case import DDP_MODES, OracleError, initial_params, resolve, resolve_hook
from oracle_state import build_state
from oracle_torch import dist, torch


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
        if self.case["mode"] in DDP_MODES:
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
