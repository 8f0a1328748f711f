"""Counts what the collectives of a process carry, for ``pyhook compare``.

The methods of a group, which every function of torch.distributed calls, note each collective: its
kind, the bytes that this rank brings, and when it began and ended. What goes around them, as the
functional collectives of newer torch do, is not seen; the Go side compares with the bytes on the
wire.
"""

from __future__ import annotations

import functools
import gc
import json
import threading
import time
import types
from typing import Any, Callable, Optional

import torch
import torch.distributed as dist

from .issued import _ISSUING as ISSUING
from .issued import _real_get_future as real_get_future

_KINDS = {
    "all_reduce_coalesced": "all_reduce",
    "all_gather_coalesced": "all_gather",
    "all_gather_into_tensor": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "all_to_all_single": "all_to_all",
}
"""What torch.distributed calls a collective -> the kind that it is for the network."""

_IN_SECOND = ("all_gather", "reduce_scatter", "all_to_all", "gather")
"""Kinds whose second argument is what the rank brings; of the others it is the first."""


class _Meter:
    """What was noted since ``start``."""

    def __init__(self) -> None:
        self.on = self.installed = False
        self.lock = threading.Lock()
        self.noted: list[list[Any]] = []  # kind, bytes, start, end or None
        self.futures: list[tuple[Any, list[Any]]] = []  # and the entry of noted

    def issued(self, kind: str, size: int, start: int, work: Any) -> None:
        entry = [kind, size, start, None]
        with self.lock:
            self.noted.append(entry)

        def done(_: Any) -> None:
            entry[3] = time.perf_counter_ns()

        try:
            future = getattr(type(work), "_pyhook_real_get_future", real_get_future)(work)
        except Exception:
            return  # a work without a future: its time is the hook's
        self.futures.append((future, entry))
        torch._C.Future.add_done_callback(future, done)

    def ends(self) -> None:
        """Wait for the callbacks of futures that are done: their threads may yet come to them."""
        limit = time.monotonic() + 1
        for future, entry in self.futures:
            while entry[3] is None and torch._C.Future.done(future) and time.monotonic() < limit:
                time.sleep(0.00002)
        self.futures = []


_meter = _Meter()


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return int(value.numel() * value.element_size())
    if isinstance(value, (list, tuple)):
        return sum(_bytes(one) for one in value)
    return 0


def _counting(real: Callable[..., Any], kind: str) -> Callable[..., Any]:
    @functools.wraps(real)
    def issue(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _meter.on:
            return real(self, *args, **kwargs)
        values = [*args, *kwargs.values()]
        brought = values[1] if kind in _IN_SECOND and len(values) > 1 else values[:1]
        start = time.perf_counter_ns()
        work = real(self, *args, **kwargs)
        if work is not None:
            _meter.issued(kind, _bytes(brought), start, work)
        return work

    return issue


def install() -> None:
    """Have the methods of a group note collectives. Idempotent."""
    if _meter.installed:
        return
    _meter.installed = True
    for name, said in ISSUING.items():
        if name in vars(dist.ProcessGroup) and name != "_end_coalescing":
            real = getattr(dist.ProcessGroup, name)
            setattr(dist.ProcessGroup, name, _counting(real, _KINDS.get(said, said)))


def start() -> int:
    """Begin to note. Return the time on the clock of ``take``, in nanoseconds."""
    _meter.noted = []
    _meter.on = True
    return time.perf_counter_ns()


def take() -> str:
    """End it. Return a JSON list of [kind, bytes, start, end] and the time now, in nanoseconds.

    The end is None of a collective that has no future, or that is not done.
    """
    now = time.perf_counter_ns()
    _meter.on = False
    _meter.ends()
    with _meter.lock:
        return json.dumps({"noted": _meter.noted, "now": now})


_SKIPPED = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.FrameType,
    dist.ProcessGroup,
)


def state_bytes(state: Any, hook: Optional[Any] = None) -> int:
    """Return the bytes of the tensors that a state, and a hook that is an object, hold.

    Tensors that share memory are counted once. Modules, classes and the globals of functions are
    not looked into; the cells of a closure are.
    """
    seen: set[int] = set()
    storages: dict[int, int] = {}
    queue = [state, getattr(hook, "__self__", hook)]
    while queue:
        one = queue.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            if not isinstance(one, torch.nn.Parameter):  # the model's
                untyped = hasattr(one, "untyped_storage")
                storage = one.untyped_storage() if untyped else one.storage()
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(one, types.FunctionType):
            queue.extend(one.__closure__ or ())
            queue.append(one.__dict__)
        elif not isinstance(one, _SKIPPED):
            queue.extend(gc.get_referents(one))
    return sum(storages.values())
