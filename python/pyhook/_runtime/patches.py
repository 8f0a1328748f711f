"""What pyhook changes in torch, so that hooks get ordered futures and no failure is unseen."""

from __future__ import annotations

import functools
from typing import Any, Callable

import torch
import torch.distributed as dist

from . import collect, issued, nccl_futures
from .ordered_future import ask, ordered_then
from .scope import scope


def patch_work(work_class: Any) -> None:
    """Have ``get_future`` of a class of works return the running chain's futures."""
    real = work_class.get_future
    work_class._pyhook_real_get_future = real

    @functools.wraps(real)
    def get_future(self: Any) -> Any:
        chain, tracer = scope.chain, scope.tracer
        future = nccl_futures.present(self, real)
        if tracer is not None:
            tracer(future)
        one = issued.issued_as(self)
        if chain is not None:
            return chain.ordered(future, one)
        if one is not None:
            one.seen = True  # what becomes of a real future cannot be seen
        return future

    work_class.get_future = get_future
    issued.patch_work(work_class)


def _asking(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def method(self: Any) -> Any:
        ask(self)
        return real(self)

    return method


def _chained_then(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def then(self: Any, callback: Callable[[Any], Any]) -> Any:
        return real(self, callback) if scope.chain is None else ordered_then(self, callback)

    return then


def install() -> None:
    """Patch ``Work.get_future`` and ``torch.futures`` for chains. Idempotent.

    Code outside a chain behaves as before. Call it before hooks are loaded: modules may keep the
    functions under names of their own.
    """
    if getattr(issued.WORK, "_pyhook_ordered", False):
        return
    patch_work(issued.WORK)
    issued.patch_group(dist.ProcessGroup)
    issued.WORK._pyhook_ordered = True
    plain = torch.futures.Future
    for name in ("wait", "done", "value"):
        setattr(plain, name, _asking(getattr(plain, name)))
    plain.then = _chained_then(plain.then)
    collect_all, wait_all = torch.futures.collect_all, torch.futures.wait_all
    torch.futures.collect_all = functools.wraps(collect_all)(
        functools.partial(collect.collect_all, collect_all)
    )
    torch.futures.wait_all = functools.wraps(wait_all)(
        functools.partial(collect.wait_all, wait_all)
    )
