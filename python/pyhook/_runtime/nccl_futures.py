"""NCCL's forms of futures, on every backend, for hooks that ask for them.

What the future of a collective holds is the backend's choice. Most hooks were written
for NCCL, and index what NCCL gives: the future of an ``all_gather`` holds one tensor of
all ranks there, ``[tensor of (world, ...)]``, and on gloo the list of the outputs,
``[tensor, tensor, ...]``. ``future.value()[0]`` then is the first rank's tensor alone:
an IndexError with luck, else a wrong result.

A hook that is called through ``NCCLForms`` gets NCCL's forms, in its body and in its
callbacks, whatever thread those run on. ``FORMS`` is the table of what differs, by the
method of the process group that every collective of torch.distributed ends in, so that a
call of the group itself (``group.allgather(...)``) is seen too.

The sources: torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp, ``collective``, completes
the future with ``work->outputs_``, which is the vector that the function of each
collective passes for its outputs; ProcessGroupGloo.cpp, ``returnFutureWithOutput``, with
the list of the output tensors, as they were given.

Nothing is changed in torch until the first ``NCCLForms`` is made. From then on a
collective of another hook costs one look at a thread-local variable more.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

import torch
import torch.distributed as dist

from .code_names import names_in
from .scope import scope

Tensors = list[Any]


def _stacked(outputs: Tensors, _: Tensors) -> Tensors:
    """One tensor of all ranks, in memory of its own: NCCL copies from it to the outputs."""
    if len({tuple(tensor.shape) for tensor in outputs}) > 1:
        return []  # then NCCL broadcasts in turn: endCoalescing completes it with no tensor
    return [torch.stack(outputs)]


def _outputs(outputs: Tensors, _: Tensors) -> Tensors:
    """The output tensors, whole."""
    return outputs


def _gathered(outputs: Tensors, _: Tensors) -> Tensors:
    """The outputs; on ranks that get none a tensor that is undefined: None in Python."""
    return outputs or [None]


def _scattered(_: Tensors, inputs: Tensors) -> Tensors:
    """The root's inputs, which scatter passes "to fit the collective interface"."""
    return inputs or [None]


def _barrier(_outputs: Tensors, _inputs: Tensors) -> Tensors:
    """The tensor of one element that NCCL's barrier all-reduces."""
    return [torch.zeros(1)]


Form = Callable[[Tensors, Tensors], Tensors]

FORMS: dict[str, Form] = {
    "allgather": _stacked,
    # all_gather_into_tensor; gloo gives the output in pieces.
    "_allgather_base": _outputs,
    "all_gather_single": _outputs,
    "allgather_into_tensor_coalesced": _outputs,
    "all_gather_single_coalesced": _outputs,
    # Gloo of torch 2 has them and no future for them.
    "reduce_scatter": _outputs,
    "_reduce_scatter_base": _outputs,
    "reduce_scatter_single": _outputs,
    "reduce_scatter_tensor_coalesced": _outputs,
    "reduce_scatter_single_coalesced": _outputs,
    "send": _outputs,
    "recv": _outputs,
    "recv_anysource": _outputs,
    "gather": _gathered,
    "scatter": _scattered,
    "barrier": _barrier,
}
"""What NCCL's future holds, made of a call's output and input tensors, by the method of
the process group, where gloo's holds something else or is not there.

Not in it, as both give the list of the tensors: allreduce, allreduce_coalesced, broadcast,
reduce, alltoall, alltoall_base (all_to_all_single). Nor allgather_coalesced, which NCCL
does not have."""


class NCCLForms:
    """A hook that gets NCCL's forms of futures: calling it calls the hook."""

    __slots__ = ("_hook",)

    def __init__(self, hook: Callable[[Any, Any], Any]) -> None:
        install()
        self._hook = hook

    def __call__(self, state: Any, bucket: Any) -> Any:
        return _asking(self._hook, state, bucket)


def _asking(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a hook or a callback that asked for the forms."""
    outer = scope.nccl_futures
    scope.nccl_futures = True
    try:
        return function(*arguments)
    finally:
        scope.nccl_futures = outer


class _Call(NamedTuple):
    """A collective that was issued by a hook that asked for the forms."""

    form: Form
    outputs: Tensors
    inputs: Tensors

    def value(self) -> Tensors:
        with torch.no_grad():
            return self.form(self.outputs, self.inputs)

    def future(self, work: Any, take: Callable[[Any], Any]) -> Any:
        """A future of the work's end that holds NCCL's form.

        Args:
            take: gives the work's own future, or raises a RuntimeError.
        """
        devices = list({t.device for t in self.outputs if t.is_cuda})
        formed = torch.futures.Future(devices=devices) if devices else torch.futures.Future()
        try:
            real = take(work)
        except RuntimeError:  # "Work::getFuture not implemented."
            wait = functools.partial(self._finish, formed, work.wait)
            threading.Thread(target=wait, name="pyhook future", daemon=True).start()
        else:
            # C++'s own: not to be wrapped as a callback of the hook's.
            _add_done_callback(real, lambda future: self._finish(formed, future.value))
        return formed

    def _finish(self, formed: Any, wait: Callable[[], Any]) -> None:
        try:
            wait()
            value = self.value()
        except Exception as error:
            formed.set_exception(error)
        else:
            formed.set_result(value)


_calls: weakref.WeakKeyDictionary[Any, _Call] = weakref.WeakKeyDictionary()
_Work: Any = dist.Work if hasattr(dist, "Work") else dist._Work
_add_done_callback = torch._C.Future.add_done_callback
_lock = threading.Lock()

_installed = False


def present(work: Any, take: Callable[[Any], Any]) -> Any:
    """The future of a work as the hook that issued it is to see it.

    Args:
        take: gives the work's own future.
    """
    call = _calls.get(work) if _installed else None
    return take(work) if call is None else call.future(work, take)


def carried(callback: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A callback of the code that runs now: it gets the forms if that asked for them."""
    return functools.partial(_asking, callback) if scope.nccl_futures else callback


def install() -> None:
    """Make torch.distributed's groups and futures know of ``NCCLForms``. Idempotent.

    Classes that were defined since the last call are found too: groups and works may be
    Python's.
    """
    global _installed
    from . import patches  # it imports this module

    patches.install()  # its Work.get_future calls present
    with _lock:
        _installed = True
        backend = getattr(torch._C._distributed_c10d, "Backend", dist.ProcessGroup)
        for group_class in {*_classes(dist.ProcessGroup), *_classes(backend)}:
            for name, form in FORMS.items():
                _wrap(group_class, name, functools.partial(_issue, form))
        for work_class in _classes(_Work):
            if "_pyhook_real_get_future" not in vars(work_class):  # else it calls present itself
                _wrap(work_class, "get_future", lambda take, work: present(work, take))
        for name in ("then", "add_done_callback"):
            _wrap(torch._C.Future, name, _carry)


def _classes(base: Any) -> Iterator[Any]:
    yield base
    for kind in base.__subclasses__():
        yield from _classes(kind)


def _wrap(kind: Any, name: str, around: Callable[..., Any]) -> None:
    """Have ``kind.name(...)`` call ``around(method, self, ...)``, if the class defines it."""
    method = vars(kind).get(name)
    if method is None or hasattr(method, "_pyhook_forms"):
        return
    method = getattr(kind, name)

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(method, self, *args, **kwargs)

    wrapper._pyhook_forms = True  # type: ignore[attr-defined]
    setattr(kind, name, wrapper)


def _issue(form: Form, method: Callable[..., Any], group: Any, *args: Any, **kwargs: Any) -> Any:
    """Issue a collective, and note what its future is to hold."""
    work = method(group, *args, **kwargs)
    if scope.nccl_futures and work is not None and not _is_nccl(group):
        named = list(kwargs.items())
        outputs = [*args[:1], *(v for k, v in named if k.startswith(("output", "tensors")))]
        inputs = [*args[1:2], *(v for k, v in named if k.startswith("input"))]
        _calls[work] = _Call(form, list(_flat(outputs)), list(_flat(inputs)))
    return work


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)


def _is_nccl(group: Any) -> bool:
    """Whether the group's futures have the forms already. torch 2 has a backend by device."""
    try:
        backends = getattr(group, "_device_types", None)
        if backends is None:
            return "nccl" in str(group.name()).lower()
        return any("nccl" in group._get_backend(d).name().lower() for d in backends)
    except Exception:  # a group of Python's that has no name
        return False


def _carry(method: Callable[..., Any], future: Any, callback: Callable[[Any], Any]) -> Any:
    """Add a callback: one of a hook that asked for the forms gets them too."""
    return method(future, carried(callback))


def uses_forms(hook: Any, state: Any = None) -> bool:
    """Whether a hook, or what it calls beside it, names a collective of the table.

    By the names in its code: for a hint where it fails, so it may be wrong.
    """
    try:
        return not _NAMES.isdisjoint(names_in(hook, type(state)))
    except Exception:  # an object that answers for every attribute
        return False


_NAMES = frozenset({*FORMS, "all_gather", "all_gather_into_tensor", "_all_gather_base",
                    "reduce_scatter_tensor"} - {"barrier", "send", "recv"})  # fmt: skip
