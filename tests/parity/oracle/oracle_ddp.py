"""DistributedDataParallel calls the hook; and the modes in which DDP is set up with more."""

from __future__ import annotations

from typing import Any, Callable

from oracle_case import DDP_MODES, OracleError, resolve
from oracle_runners import Runner
from oracle_torch import dist, torch


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


class DDPRunner(Runner):
    """DistributedDataParallel itself, with its checks and its own choice of buckets.

    For the hooks that need a DDP object, and to learn what users meet at registration. The
    layout is DDP's and is recorded, not prescribed.
    """

    def make_hook(self) -> Callable[..., Any]:
        if self.case["mode"] in DDP_MODES:
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
        if case["mode"] in DDP_MODES:
            DDP_SETUPS[case["mode"]](self, module, options)
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
