"""Reports the collectives of a hook, for the timeline."""

from __future__ import annotations

import functools
import time
from typing import Any, Callable

import torch

from .scope import scope


class TracedHook:
    """A hook whose collectives are reported. Calling it calls the hook.

    Args:
        report: called with (bucket index, start, end, bytes) when a collective is done whose
            future the hook took: times in nanoseconds of the wall clock, bytes of the tensors
            that it left on this rank, 0 if it failed.
    """

    def __init__(
        self, hook: Callable[[Any, Any], Any], report: Callable[[int, int, int, int], Any]
    ) -> None:
        self._hook = hook
        self._report = report

    def __call__(self, state: Any, bucket: Any) -> Any:
        outer = scope.tracer
        scope.tracer = functools.partial(_trace, self._report, bucket.index())
        try:
            return self._hook(state, bucket)
        finally:
            scope.tracer = outer


def _trace(report: Callable[[int, int, int, int], Any], bucket: int, work: Any) -> None:
    start = time.time_ns()

    def done(future: Any) -> None:
        end = time.time_ns()
        try:
            value = future.value()
        except Exception:
            value = ()
        tensors = value if isinstance(value, (list, tuple)) else (value,)
        held = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
        report(bucket, start, end, held)

    work.add_done_callback(done)
