"""The product without one of its waits: MUTATIONS, for TestReducer_mutations."""

import copy

import torch
from pyhook._device import memory, on_stream, staging, streams
from pyhook._runtime import chain, issued, nccl_futures, ordered_future
from pyhook._state import file


class _Unordered:
    """A stream whose waits do nothing."""

    def __init__(self, stream):
        self._stream = stream

    def wait_stream(self, other):
        pass

    def __getattr__(self, name):
        return getattr(self._stream, name)


class _Work:
    def wait(self):
        pass


def _with(**changes):
    """A method that runs on a copy of its object with other attributes: made by functions of it."""

    def change(real):
        def method(self, *args, **kwargs):
            twin = copy.copy(self)
            for name, made in changes.items():
                setattr(twin, name, made(self))
            return real(twin, *args, **kwargs)

        return method

    return change


def _instead(function):
    return lambda real: function


_elsewhere = _with(_current=lambda self: torch.sim.Stream)


def _hook_anywhere(self, hook):
    def call(state, bucket):
        with torch.sim.Stream():
            return hook(state, bucket)

    return call


def _unrecorded(real):
    def new(self, *args):
        keep = torch.Tensor.record_stream
        torch.Tensor.record_stream = lambda tensor, stream: None
        try:
            return real(self, *args)
        finally:
            torch.Tensor.record_stream = keep

    return new


class _Futures:
    """torch.futures whose futures know no device."""

    Future = staticmethod(lambda devices=(): torch.futures.Future())


class _Torch:
    futures = _Futures

    def __getattr__(self, name):
        return getattr(torch, name)


# By name: what a mutation changes, as owner, attribute and what is made of it.
MUTATIONS = {
    "fill does not wait for the trainer": (
        memory.DeviceMemory, "fill", _with(_trainer=lambda self: self._stream),  # itself
    ),
    "fill runs elsewhere": (memory.DeviceMemory, "fill", _elsewhere),
    "end does not have the trainer wait": (
        memory.DeviceMemory, "end", _with(_trainer=lambda self: _Unordered(self._trainer)),
    ),
    "new does not have the trainer wait": (
        memory.DeviceMemory, "new", _with(end=lambda self: lambda: None),
    ),
    "new does not record the trainer's stream": (memory.DeviceMemory, "new", _unrecorded),
    "copy runs elsewhere": (memory.DeviceMemory, "copy", _elsewhere),
    "divide runs elsewhere": (memory.DeviceMemory, "divide", _elsewhere),
    "the finite check looks elsewhere": (memory.DeviceMemory, "first_nonfinite", _elsewhere),
    "the checksum looks elsewhere": (memory.DeviceMemory, "checksum", _elsewhere),
    "Wait does not wait": (memory.DeviceMemory, "synchronize", _instead(lambda self: None)),
    "collectives are issued elsewhere": (memory.DeviceMemory, "collective", _elsewhere),
    "another stream waits for a collective": (memory.DeviceMemory, "_wait_for", _elsewhere),
    "the hook runs elsewhere": (on_stream.OnStream, "around", _instead(_hook_anywhere)),
    "nothing waits for the hook's future": (
        on_stream.OnStream, "value", _instead(lambda self, future: future.value()),
    ),
    "a result with strides is copied elsewhere": (
        on_stream.OnStream, "parse_value", _with(current=lambda self: torch.sim.Stream),
    ),
    "the trainer's stream waits for callbacks": (
        chain.Chain, "advance", _with(_current=lambda self: torch.sim.default_stream),
    ),
    "a chain's futures know no device": (
        ordered_future.OrderedFuture, "__init__",
        lambda real: lambda self, devices=(): real(self),
    ),
    "dropped works are not waited for": (
        issued.Issues, "order", _instead(lambda self: None),
    ),
    "a checked hook's future knows no device": (issued, "torch", _instead(_Torch())),
    "NCCL's futures know no device": (nccl_futures, "torch", _instead(_Torch())),
    "staged collectives are not waited for": (
        staging, "copy_back",
        lambda real: lambda work, changed, there: real(
            _Work() if changed[0].dtype == torch.int32 else work, changed, there
        ),
    ),
    "what a hook holds is not recorded": (
        memory.DeviceMemory, "_record", _instead(lambda self, *holders: None),
    ),
    "a state is kept and put back in no order": (
        file, "synchronize_used", _instead(lambda: None),
    ),
    "the device is not waited for before": (
        streams, "synchronize", _instead(lambda device: None),
    ),
    "a state's parameters are not waited for": (
        streams, "synchronize_of", _instead(lambda tensors: None),
    ),
    "a state's stream is not waited for": (on_stream, "_after", _instead(lambda *args: None)),
}  # fmt: skip


def mutate(name, when=None):
    """Take something out, or a function where ``when()`` is true. Returns what puts it back."""
    owner, attribute, change = {**MUTATIONS, **MUTATIONS_THERE}[name]
    real = getattr(owner, attribute)
    changed = change(real)
    if when is not None:
        taken = changed
        changed = lambda *args: (taken if when() else real)(*args)  # noqa: E731
    setattr(owner, attribute, changed)
    return lambda: setattr(owner, attribute, real)


def undo(mutation):
    torch.sim.synchronize()
    torch.sim.synchronize(1)
    mutation()
    begun.clear()


def names():
    return list(MUTATIONS)


begun = []


def begin():
    """Have what is taken out of a trainer or a worker be missing from now on.

    ``ddp.NewReducer`` tries what the worker writes, and would refuse it.
    """
    begun.append(True)


# Of a trainer with a worker, or of the worker.
MUTATIONS_THERE = {
    "the host does not wait": (
        memory.DeviceMemory, "synchronize",
        lambda real: lambda self: None if begun else real(self),
    ),
    "a call that failed is not waited for": (streams, "wait_out", _instead(lambda: None)),
}  # fmt: skip
