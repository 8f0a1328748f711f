"""Decides whether a hook's calls may begin before the callbacks of earlier calls have run.

On NCCL a ``then`` callback runs, on the host, as soon as it is given: the whole of one bucket's
hook, callbacks and all, comes before the next bucket's. Most hooks are written for that, and many
keep things in their state between body and callback (a scale, a counter, PowerSGD's
dictionaries). With buckets that overlap they reduce with another bucket's values, alike on all
ranks and without an error.

So buckets overlap only for hooks that are known not to do that: PyTorch's that were read and
tried, and hooks that say so themselves::

    def my_hook(state, bucket): ...
    my_hook.pyhook_order = "ordered"
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from .._errors import HookLoadError
from .._loading.names import DDP_HOOKS, inside_wrapper

ORDERED, SERIAL = "ordered", "serial"

_PACKAGE = f"{DDP_HOOKS}."

PROVEN: dict[str, tuple[str, ...]] = {
    _PACKAGE + "default_hooks": ("allreduce_hook", "fp16_compress_hook", "bf16_compress_hook"),
    _PACKAGE + "debugging_hooks": ("noop_hook",),
    _PACKAGE + "quantization_hooks": (
        "quantization_pertensor_hook",
        "quantization_perchannel_hook",
    ),
    _PACKAGE + "post_localSGD_hook": ("post_localSGD_hook",),
}
"""PyTorch's hooks whose callbacks use nothing that a later call of the hook changes, as read in
torch 1.13 and 2.15. tests/order runs each one both ways. PowerSGD's are not among them:
``warm_start=False`` clears dictionaries of all buckets in the last callback of each."""

WRAPPERS: dict[str, tuple[str, ...]] = {
    _PACKAGE + "default_hooks": ("fp16_compress_wrapper_hook", "bf16_compress_wrapper_hook"),
}
"""The functions that PyTorch's wrappers return: as safe as the hook inside."""


def hook_order(hook: Any) -> str:
    """Return the order in which a hook's calls and callbacks are right.

    Returns:
        ``"ordered"``: callbacks run level by level, after later buckets' hooks were called;
        ``"serial"``: a call's callbacks run before the next call.

    Raises:
        HookLoadError: ``order``: the hook has a ``pyhook_order`` of another value.
    """
    said = getattr(hook, "pyhook_order", None)
    if said is not None:
        if said in (ORDERED, SERIAL):
            return str(said)
        raise HookLoadError(
            "order",
            f"the hook's pyhook_order is {said!r}",
            f'"{ORDERED}": its callbacks use nothing that a call for another bucket changes; '
            f'"{SERIAL}" (the default): they may',
        )
    if isinstance(hook, functools.partial):
        return hook_order(hook.func)
    if _is_one_of(hook, PROVEN):
        return ORDERED
    if _is_one_of(hook, WRAPPERS):
        return hook_order(inside_wrapper(hook))
    return SERIAL


def _is_one_of(hook: Any, names: dict[str, tuple[str, ...]]) -> bool:
    """Return whether a function is torch's own, by its code: ``functools.wraps`` copies names."""
    code = getattr(hook, "__code__", None)
    module = sys.modules.get(str(getattr(hook, "__module__", "")))
    return (
        code is not None
        and module is not None
        and getattr(hook, "__globals__", None) is vars(module)
        and code.co_filename == getattr(module, "__file__", "")
        and code.co_name in names.get(module.__name__, ())
    )
