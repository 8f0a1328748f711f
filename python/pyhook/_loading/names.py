"""Short names of the hooks and states that PyTorch ships, and how hooks are shown."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Optional

from .modules import given_name

DDP_HOOKS = "torch.distributed.algorithms.ddp_comm_hooks"

SHORT_NAMES = {
    "allreduce": f"{DDP_HOOKS}.default_hooks:allreduce_hook",
    "fp16": f"{DDP_HOOKS}.default_hooks:fp16_compress_hook",
    "bf16": f"{DDP_HOOKS}.default_hooks:bf16_compress_hook",
    "fp16_wrapper": f"{DDP_HOOKS}.default_hooks:fp16_compress_wrapper",
    "bf16_wrapper": f"{DDP_HOOKS}.default_hooks:bf16_compress_wrapper",
    "powersgd": f"{DDP_HOOKS}.powerSGD_hook:powerSGD_hook",
    "batched_powersgd": f"{DDP_HOOKS}.powerSGD_hook:batched_powerSGD_hook",
    "noop": f"{DDP_HOOKS}.debugging_hooks:noop_hook",
    "quantize_pertensor": f"{DDP_HOOKS}.quantization_hooks:quantization_pertensor_hook",
    "quantize_perchannel": f"{DDP_HOOKS}.quantization_hooks:quantization_perchannel_hook",
    "post_localsgd": f"{DDP_HOOKS}.post_localSGD_hook:post_localSGD_hook",
}
"""Hooks that PyTorch ships (torch/distributed/algorithms/ddp_comm_hooks)."""

STATE_SHORT_NAMES = {
    "powersgd": f"{DDP_HOOKS}.powerSGD_hook:PowerSGDState",
    "batched_powersgd": f"{DDP_HOOKS}.powerSGD_hook:PowerSGDState",
    "post_localsgd": f"{DDP_HOOKS}.post_localSGD_hook:PostLocalSGDState",
}


def inside_wrapper(hook: Any) -> Optional[Any]:
    """Return the hook inside the function of one of PyTorch's wrappers; None of any other hook."""
    if getattr(hook, "__module__", "") != f"{DDP_HOOKS}.default_hooks":
        return None
    cells = dict(zip(hook.__code__.co_freevars, hook.__closure__ or ()))
    return cells["hook"].cell_contents if "hook" in cells else None


def hook_name(hook: Any) -> str:
    """Return ``module.qualname`` of a hook, or of what a callable of another kind calls.

    A hook of a file that the user named by its path is ``path/hooks.py:hook``.
    """
    registered = getattr(hook, "registered_hook", None)  # of a pyhook.capture.Registered
    if registered is not None:
        return hook_name(registered)
    if isinstance(hook, functools.partial):
        return f"functools.partial({hook_name(hook.func)})"
    module = getattr(hook, "__module__", None) or type(hook).__module__
    name = getattr(hook, "__qualname__", None)
    if name is None:
        return f"{_full_name(type(hook).__module__, type(hook).__qualname__)} instance"
    owner = getattr(hook, "__self__", None)
    if owner is not None and not inspect.ismodule(owner) and not inspect.isclass(owner):
        kind = type(owner)
        return f"{_full_name(kind.__module__, kind.__qualname__)}.{hook.__name__}"
    return _full_name(module, name)


def _full_name(module: str, name: str) -> str:
    given = given_name(module)
    return f"{module}.{name}" if given is None else f"{given}:{name}"
