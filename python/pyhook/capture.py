"""A stand-in for the DDP model, for hooks that an object registers itself.

    class Stats:                              # as published
        def attach(self, ddp):
            self.names = {p: n for n, p in ddp.named_parameters()}
            ddp.register_comm_hook(self, Stats.hook)

    registered = capture(Stats(), parameters)
    registered.hook, registered.state         # what it registered

``pyhook.load_hook("stats.py:Stats()")``, Go's ``Runtime.NewHook`` and ``pyhook check`` do it with
objects that have a method ``attach``, ``register`` or the like, and with classes and functions
that take the model: ``"gns.py:DDPGradientStatsHook(ddp)"``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable, NoReturn, Optional

from . import _torch  # noqa: F401  (first: a clear error when torch is missing)

# isort: split
import torch
from torch.nn.parallel import DistributedDataParallel

from ._errors import HookLoadError
from ._loading.factory import Trainer
from ._loading.load import check_hook
from ._loading.names import DDP_HOOKS, hook_name
from ._runtime.parameters import Parameters

__all__ = ["Model", "Registered", "capture"]

_NOT_CALLED = (
    "pyhook's Go trainer runs the model itself: only what a hook's registration needs is here"
)


class Registered:
    """A hook and the state with which it was registered. Calling it calls the hook with those."""

    def __init__(self, hook: Callable[..., Any], state: Any) -> None:
        self.hook = hook
        self.state = state

    @property
    def registered_hook(self) -> Callable[..., Any]:
        """The hook, which ``hook_name`` shows."""
        return self.hook

    def __call__(self, state: Any, bucket: Any) -> Any:
        """Call the hook with its own state.

        Raises:
            HookLoadError: ``bad_arguments``: another state was given.
        """
        if state is not None and state is not self.state:
            raise _has_state(self.hook)
        return self.hook(self.state, bucket)


def _has_state(hook: Any) -> HookLoadError:
    return HookLoadError(
        "bad_arguments",
        f"{hook_name(hook)} was registered with a state of its own, and another one is given",
        "leave the state out",
    )


def capture(
    value: Any, parameters: Optional[Any] = None, process_group: Optional[Any] = None
) -> Registered:
    """Attach an object to a stand-in for the DDP model and take what it registers.

    Args:
        value: an object with a method ``attach``, ``register``, ``register_hook``,
            ``register_comm_hook`` or ``attach_to`` that takes the model; or a function that does.
        parameters: of the model: ``pyhook.Parameters``, or pairs of name and parameter as
            ``named_parameters()`` gives them.
        process_group: the default group if None.

    Raises:
        HookLoadError: ``not_callable``: it has no such method, or it registered nothing.
    """
    trainer = Trainer(process_group, parameters)
    method = trainer.registering_method(value)
    if method is None and callable(value):
        value, method = _Function(value), "attach"
    if method is None:
        raise HookLoadError(
            "not_callable",
            f"{hook_name(value)} has no method attach(ddp) or register(ddp)",
            "load a hook by its own name",
        )
    return trainer.attach(value, method)  # type: ignore[no-any-return]


class _Function:
    """A function of the model, as an object with ``attach``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.attach = function


def hook_and_state(
    hook: Any, state_given: bool, group: Optional[Any], parameters: Optional[Any]
) -> tuple[Any, Any]:
    """Return the hook to call, and the state that comes with it, or None."""
    from ._loading.factory import default_state

    if isinstance(hook, Registered):
        if state_given:
            raise _has_state(hook.hook)
        return hook.hook, hook.state
    return hook, None if state_given else default_state(hook, Trainer(group, parameters))


class _Named(torch.nn.Module):  # type: ignore[misc]  # torch has no stubs for all versions
    """A module that holds parameters under dotted names, in the trainer's order."""

    def __init__(self, parameters: Parameters) -> None:
        super().__init__()
        self._in_order = dict(parameters.named_parameters())
        for name, parameter in self._in_order.items():
            *folders, last = name.split(".")
            module: torch.nn.Module = self
            for folder in folders:
                module = module._modules.setdefault(folder, torch.nn.Module())
            module._parameters[last] = parameter

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, *_: Any, **__: Any
    ) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """``torch.nn.Module.named_parameters``, in the trainer's order."""
        for name, parameter in self._in_order.items():
            if recurse or "." not in name:
                yield (f"{prefix}.{name}" if prefix else name), parameter

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Raise RuntimeError."""
        raise RuntimeError(f"the stand-in for the model has no forward pass: {_NOT_CALLED}")


_DDP: Any = DistributedDataParallel  # which mypy knows with some versions of torch only


class Model(_DDP):  # type: ignore[misc]
    """A stand-in for the DistributedDataParallel model: it takes a hook, and shows parameters.

    ``module`` has the trainer's parameters under their names; ``named_parameters()`` adds DDP's
    prefix ``module.``. The reducer, the forward pass and the like raise an error that says so.

    Attributes:
        registered: the hook and its state, once ``register_comm_hook`` was called.
    """

    dim: Any

    def __init__(self, parameters: Any = (), process_group: Optional[Any] = None) -> None:
        torch.nn.Module.__init__(self)  # DDP's own broadcasts and makes a reducer
        if not isinstance(parameters, Parameters):
            parameters = Parameters(parameters)
        first = next(iter(parameters), None)
        self.registered: Optional[Registered] = None
        self.module = _Named(parameters)
        self.process_group = process_group
        self.device = torch.device("cpu") if first is None else first.device
        self.device_type = self.device.type
        self.is_multi_device_module = False
        self.device_ids: Any = None if self.device.type == "cpu" else [self.device]
        self.output_device = None
        self.dim = 0
        self.broadcast_buffers = self.find_unused_parameters = self.static_graph = False
        self.gradient_as_bucket_view = self.require_backward_grad_sync = True
        self.require_forward_param_sync = True
        self.bucket_bytes_cap = 25 * 1024 * 1024
        self.parameters_to_ignore: set[str] = set()

    def register_comm_hook(self, state: object, hook: Callable[..., Any]) -> None:
        """Take one hook, as ``DistributedDataParallel.register_comm_hook`` does.

        Raises:
            HookLoadError: it cannot be called with (state, bucket).
            RuntimeError: there is one already, as in DDP.
        """
        check_hook(hook)
        if self.registered is not None:
            raise RuntimeError(
                "register_comm_hook or register_builtin_comm_hook can only be called once."
            )
        self.registered = Registered(hook, state)

    def _register_builtin_comm_hook(self, comm_hook_type: Any) -> None:
        """Register the Python hook that computes what DDP's hook in C++ does."""
        import importlib

        hooks = importlib.import_module(f"{DDP_HOOKS}.default_hooks")
        names = {"ALLREDUCE": "allreduce_hook", "FP16_COMPRESS": "fp16_compress_hook"}
        name = str(comm_hook_type).rpartition(".")[2]
        self.register_comm_hook(None, getattr(hooks, names[name]))

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, *_: Any, **__: Any
    ) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yield the module's, under names that begin with ``module.``, as DDP does."""
        if recurse:
            yield from self.module.named_parameters(f"{prefix}.module" if prefix else "module")

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Raise RuntimeError."""
        raise RuntimeError(f"the stand-in for the DDP model has no forward pass: {_NOT_CALLED}")

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(
                f"the stand-in for the DDP model has no {name!r}: {_NOT_CALLED}"
            ) from None


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refused(self: Any, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(
            f"{name} on the stand-in for the DDP model: it would never be called; {_NOT_CALLED}"
        )

    return refused


for _name in (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_backward_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
    "_register_fused_optim",
):
    setattr(Model, _name, _refuse(_name))
    setattr(_Named, _name, _refuse(_name))
