"""What is called in place of a hook, for what its caller asked for besides the call."""

from __future__ import annotations

from typing import Any, Callable, Optional

from .chain import Chain
from .issued import CheckedHook
from .nccl_futures import NCCLForms
from .trace import TracedHook


def wrapped(
    hook: Any, nccl_forms: bool, report: Optional[Callable[..., Any]], checked: bool
) -> Any:
    """Return a hook that gets NCCL's forms, is traced by ``report`` and is checked, or not."""
    if nccl_forms:
        hook = NCCLForms(hook)
    if report is not None:
        hook = TracedHook(hook, report)
    return CheckedHook(hook) if checked else hook


def unwrapped(hook: Any) -> Any:
    """Return the hook inside of ``wrapped``'s, or of a chain around that."""
    while isinstance(hook, (Chain, TracedHook, CheckedHook, NCCLForms)):
        hook = hook._hook
    return hook
