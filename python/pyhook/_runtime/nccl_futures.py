"""NCCL's forms of futures, on every backend, for hooks that ask for them.

Each backend chooses what the future of a collective holds. Most hooks were written for NCCL and
index what NCCL gives: the future of an ``all_gather`` holds one tensor of all ranks,
``[tensor of (world, ...)]``. Gloo's holds the list of the outputs, ``[tensor, tensor, ...]``:
there ``future.value()[0]`` is the first rank's tensor alone, which is an IndexError with luck, else
a wrong result.

A hook that is called through ``NCCLForms`` gets NCCL's forms, in its body and in its callbacks, on
whatever thread those run. ``FORMS`` lists what differs, by the method of the process group, so
that a call of the group itself (``group.allgather(...)``) is seen too.

The sources: ProcessGroupNCCL.cpp, ``collective``, completes the future with ``work->outputs_``,
the vector that each collective's function passes for its outputs; ProcessGroupGloo.cpp,
``returnFutureWithOutput``, with the list of the output tensors, as they were given.

The first ``NCCLForms`` patches torch. From then on a collective of another hook costs one look at
a thread-local variable more.
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
from .issued import WORK
from .scope import scope

Tensors = list[Any]


def _stacked(outputs: Tensors, _: Tensors) -> Tensors:
    """Return one tensor of all ranks, in memory of its own: NCCL copies from it to the outputs."""
    if len({tuple(tensor.shape) for tensor in outputs}) > 1:
        return []  # then NCCL broadcasts in turn: endCoalescing completes it with no tensor
    return [torch.stack(outputs)]


def _outputs(outputs: Tensors, _: Tensors) -> Tensors:
    return outputs


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
    # Ranks that get no outputs have a tensor that is undefined: None in Python.
    "gather": lambda outputs, _: outputs or [None],
    # The root's inputs, which scatter passes "to fit the collective interface".
    "scatter": lambda _, inputs: inputs or [None],
    "barrier": lambda _, __: [torch.zeros(1)],  # which NCCL's barrier all-reduces
}
"""Methods of the process group whose future NCCL and gloo give another value, or gloo none, and
how to make NCCL's value of a call's output and input tensors.

Both give the list of the tensors for allreduce, allreduce_coalesced, broadcast, reduce, alltoall
and alltoall_base (all_to_all_single). NCCL has no allgather_coalesced."""


class NCCLForms:
    """A hook that gets NCCL's forms of futures. Calling it calls the hook."""

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
    """A collective that a hook which asked for the forms issued."""

    form: Form
    outputs: Tensors
    inputs: Tensors

    def future(self, work: Any, get_future: Callable[[Any], Any]) -> Any:
        """Return a future that completes with the work and holds NCCL's form."""
        devices = list({t.device for t in self.outputs if t.device.type != "cpu"})
        formed = torch.futures.Future(devices=devices) if devices else torch.futures.Future()
        try:
            real = get_future(work)
        except RuntimeError:  # "Work::getFuture not implemented."
            wait = functools.partial(self._finish, formed, work.wait)
            threading.Thread(target=wait, name="pyhook future", daemon=True).start()
        else:
            # C++'s own method, which does not take this for a callback of the hook's.
            _add_done_callback(real, lambda future: self._finish(formed, future.value))
        return formed

    def _finish(self, formed: Any, wait: Callable[[], Any]) -> None:
        try:
            wait()
            with torch.no_grad():
                value = self.form(self.outputs, self.inputs)
        except Exception as error:
            formed.set_exception(error)
        else:
            formed.set_result(value)


_calls: weakref.WeakKeyDictionary[Any, _Call] = weakref.WeakKeyDictionary()
_add_done_callback = torch._C.Future.add_done_callback
_lock = threading.Lock()

_installed = False


def present(work: Any, get_future: Callable[[Any], Any]) -> Any:
    """Return the future that the hook which issued a work is to see."""
    call = _calls.get(work) if _installed else None
    return get_future(work) if call is None else call.future(work, get_future)


def carried(callback: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a callback that gets the forms if the code that runs now asked for them."""
    return functools.partial(_asking, callback) if scope.nccl_futures else callback


def install() -> None:
    """Patch torch.distributed's groups and futures for ``NCCLForms``. Idempotent.

    It also patches classes that were defined since the last call: groups and works may be
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
        for work_class in _classes(WORK):
            if "_pyhook_real_get_future" not in vars(work_class):  # else it calls present itself
                _wrap(work_class, "get_future", lambda get_future, work: present(work, get_future))
        for name in ("then", "add_done_callback"):
            _wrap(torch._C.Future, name, lambda add, future, call: add(future, carried(call)))


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
    """Issue a collective, and note what its future must hold."""
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
    """Return whether the group's futures have the forms. torch 2 has a backend for each device."""
    try:
        backends = getattr(group, "_device_types", None)
        if backends is None:
            return "nccl" in str(group.name()).lower()
        return any("nccl" in group._get_backend(d).name().lower() for d in backends)
    except Exception:  # a group of Python's that has no name
        return False


def uses_forms(hook: Any, state: Any = None) -> bool:
    """Return whether a hook, or what it calls in its module, names a collective of the table.

    It looks at the names in the code, for a hint where the hook fails, and may be wrong.
    """
    try:
        return not _NAMES.isdisjoint(names_in(hook, type(state)))
    except Exception:  # an object that answers for every attribute
        return False


_NAMES = frozenset({*FORMS, "all_gather", "all_gather_into_tensor", "_all_gather_base",
                    "reduce_scatter_tensor"} - {"barrier", "send", "recv"})  # fmt: skip
