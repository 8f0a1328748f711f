"""Streams of any device, by the functions that torch has for all of them, or the device's own.

A stream is a device's queue: what is put on one runs in order, and two run side by side.
``torch.Stream`` is generic since torch 2.5, and every backend's module (``torch.cuda``,
``torch.xpu``, that of a private backend) has the same names for what else there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import torch


def module_of(device: torch.device) -> Any:
    """Return the device's module: ``torch.cuda``.

    Raises:
        RuntimeError: torch has no such device.
    """
    module = getattr(torch, device.type, None)
    if module is None or not hasattr(module, "device_count"):
        raise RuntimeError(f"this torch has no module torch.{device.type}, so no {device}")
    if (device.index or 0) >= module.device_count():
        raise RuntimeError(
            f"there is no {device}: torch sees {module.device_count()} devices of this kind"
        )
    return module


def existing_stream(device: torch.device, handle: int) -> Any:
    """Return the trainer's stream of that handle (see c10d.Stream); 0: the default one.

    Raises:
        RuntimeError: torch has no such device.
    """
    module = module_of(device)
    _used.add(device)
    if handle == 0 and hasattr(module, "default_stream"):
        return module.default_stream(device)
    if handle != 0:
        for name in ("get_stream_from_external", "ExternalStream"):
            if hasattr(module, name):
                return getattr(module, name)(handle, device=device)
    kind = new_stream(device).device_type
    return torch.Stream(stream_id=handle, device_index=device.index or 0, device_type=kind)


def new_stream(device: torch.device) -> Any:
    """Return a stream of the device that the trainer does not use."""
    module = module_of(device)
    return module.Stream(device=device) if hasattr(module, "Stream") else torch.Stream(device)


def synchronize(device: torch.device) -> None:
    """Have the host wait for all streams of the device; the CPU has none."""
    if device.type == "mps":  # there is one
        torch.mps.synchronize()
    elif device.type != "cpu":
        module_of(device).synchronize(device)


def synchronize_of(tensors: Iterable[torch.Tensor]) -> None:
    """Have the host wait for all streams of the tensors' devices."""
    for device in {tensor.device for tensor in tensors}:
        synchronize(device)


_used: set[torch.device] = set()  # that a hook's bucket or a Reducer's gradients are on


def synchronize_used() -> None:
    """Have the host wait for all streams of the devices on which hooks run."""
    for device in list(_used):
        synchronize(device)


def wait_out() -> None:
    """``synchronize_used`` after a step that failed: its work may fail on a device."""
    for device in list(_used):
        with suppress(Exception):
            synchronize(device)


def current(stream: Any) -> AbstractContextManager[Any]:
    """Return a context in which the stream is the current one of this thread.

    A ``torch.Stream`` is such a context itself, which keeps what was current before: one object is
    good for one thread at a time, and the streams here are entered by several.
    """
    module = module_of(stream.device)
    context = module.stream(stream) if hasattr(module, "stream") else stream
    return _accelerator(stream) if context is stream else context


@contextmanager
def _accelerator(stream: Any) -> Iterator[None]:
    device = module_of(stream.device).current_device()
    former = torch.accelerator.current_stream(stream.device)
    torch.accelerator.set_stream(stream)  # and its device
    try:
        yield
    finally:
        torch.accelerator.set_stream(former)
        module_of(stream.device).set_device(device)
