"""What package ddp does with gradients in a device's memory, by torch's own operations.

Everything is enqueued on a communication stream, beside the trainer's: ``fill`` has the one wait
for the other, and ``end`` the other for the one, as PyTorch's reducer and its NCCL streams do. On
the CPU, which has no streams, it is the same operations: so one can compare them with Go's own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Optional

import torch

from . import held, streams
from .on_stream import OnStream

_CHUNK = 1 << 22  # elements of which a checksum makes int64s at a time
_LARGE = 1024  # elements of a gradient that has a launch of its own, to read and write it once only
_foreach_copy = getattr(torch, "_foreach_copy_", None)  # torch 2.1


class DeviceMemory:
    """The memory of one device, and its communication stream.

    The host waits for the device: what is read here of parameters' values and of hooks' states may
    have been written on any stream, before there was this one to wait for it.

    Args:
        device: torch's name of it.
        handle: the trainer's stream; see c10d.Stream.
    """

    def __init__(self, device: str, handle: int) -> None:
        self._device = torch.device(device)
        self._stream: Optional[Any] = None
        self._trainer: Optional[Any] = None
        self._recorded = False  # what the hook holds, in this step
        if self._device.type != "cpu":
            self._trainer = streams.existing_stream(self._device, handle)
            self._trainer.record_event()  # an error now, where it is a stream of another device
            self._stream = streams.new_stream(self._device)
            streams.synchronize(self._device)
        elif handle:
            raise RuntimeError(f"the CPU has no stream {handle:#x}")

    def _current(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else streams.current(self._stream)

    def on_stream(self) -> Optional[OnStream]:
        """Return what has hooks called, and futures asked, on the communication stream."""
        if self._stream is None:
            return None
        return OnStream(
            functools.partial(streams.current, self._stream), self._device, self._record
        )

    def _record(self, *holders: Any) -> None:
        """Before a step's first hook call, have the allocator know of what hooks may drop."""
        if not self._recorded:
            self._recorded = True
            for tensor in held.tensors(holders, self._device):
                tensor.record_stream(self._stream)

    def new(self, dtype: str, elements: int) -> torch.Tensor:
        """Return a flat tensor of zeros, which both streams may use."""
        with self._current():
            made = torch.zeros(elements, dtype=getattr(torch, dtype), device=self._device)
            if self._trainer is not None:
                made.record_stream(self._trainer)  # else the allocator gives it on too early
                self.end()  # what the trainer writes comes after the zeros
        return made

    def fill(
        self,
        to: list[torch.Tensor],
        gradients: list[torch.Tensor],
        unused: list[torch.Tensor],
        factor: float,
    ) -> None:
        """Begin a bucket: wait for the trainer's stream, and write its gradients."""
        if self._stream is not None:
            self._stream.wait_stream(self._trainer)
        with self._current():
            if to and factor == 1:
                _copy(to, gradients)
            elif to:
                _multiply(to, gradients, factor)
            if unused:
                torch._foreach_zero_(unused)

    def copy(
        self, to: list[torch.Tensor], tensors: list[torch.Tensor], overlapping: Sequence[int]
    ) -> None:
        """Copy each tensor and convert its dtype.

        Args:
            to: what is written.
            tensors: what is read.
            overlapping: the indices of those that overlap what they are copied to.
        """
        with self._current():
            for i in overlapping:
                tensors[i] = tensors[i].clone()
            _copy(to, tensors)

    def divide(self, tensor: torch.Tensor, divisor: float) -> None:
        """Divide in place."""
        with self._current():
            tensor.div_(divisor)

    def first_nonfinite(self, tensor: torch.Tensor) -> int:
        """Return the index of the first NaN or infinity, or -1. The host waits for that number."""
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return -1
        with self._current():
            if tensor.element_size() == 1:  # 8-bit floats have no isfinite
                tensor = tensor.to(torch.float32)
            bad = torch.isfinite(tensor).logical_not_().reshape(-1)
            return int(bad.nonzero()[0]) if bool(bad.any()) else -1

    def checksum(self, tensor: torch.Tensor) -> int:
        """Return a sum of the elements' bits by weights, modulo 2^64. The host waits for it.

        All weights are odd, so that one changed element always changes it.
        """
        with self._current():
            words = tensor.detach().contiguous().reshape(-1).view(_words(tensor))
            total = torch.zeros((), dtype=torch.int64, device=self._device)
            for start in range(0, words.numel(), _CHUNK):
                part = words[start : start + _CHUNK].to(torch.int64)
                at = torch.arange(start + 1, start + 1 + part.numel(), device=self._device)
                weights = at.mul_(-7046029254386353131)  # 2^64 divided by the golden ratio
                weights = weights.bitwise_xor(weights >> 29).bitwise_or_(1)
                total += part.mul_(weights).sum()
            return int(total) & (2**64 - 1)

    def end(self) -> None:
        """Have the trainer's stream wait for the communication stream."""
        if self._trainer is not None:
            self._recorded = False
            self._trainer.wait_stream(self._stream)

    def synchronize(self) -> None:
        """Have the host wait for the communication stream, without the GIL."""
        if self._stream is not None:
            self._stream.record_event().synchronize()

    def collective(self, name: str, *arguments: Any) -> Any:
        """Issue a collective of ``_runtime.collectives`` from the communication stream.

        Returns:
            A future without a value. When it is done, that stream waits for the collective.
        """
        from .._runtime import collectives

        with self._current():
            future = getattr(collectives, name)(*arguments)
        if self._stream is None:
            return future
        ordered = torch.futures.Future()
        future.add_done_callback(functools.partial(self._wait_for, ordered))
        return ordered

    def _wait_for(self, ordered: Any, future: Any) -> None:
        try:
            with self._current():
                future.wait()
        except Exception as error:
            ordered.set_exception(error)
        else:
            ordered.set_result(None)


def _copy(to: list[torch.Tensor], tensors: Sequence[torch.Tensor]) -> None:
    if len(to) > 1 and _foreach_copy is not None:
        _foreach_copy(to, tensors, non_blocking=True)
        return
    for a, b in zip(to, tensors):
        a.copy_(b, non_blocking=True)


def _multiply(to: list[torch.Tensor], tensors: Sequence[torch.Tensor], factor: float) -> None:
    small: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
    for a, b in zip(to, tensors):
        # For lists torch may round the factor to half precision, where PyTorch's reducer does not.
        if a.element_size() == 2 or (a.numel() >= _LARGE and a.dtype == b.dtype):
            torch.mul(b.to(a.dtype), factor, out=a)
        else:
            small[0].append(a)
            small[1].append(b)
    if small[0]:
        _copy(*small)
        torch._foreach_mul_(small[0], factor)


def _words(tensor: torch.Tensor) -> torch.dtype:
    """Return the integers that a tensor's bits are read as: of at most 32 bits, as all are odd."""
    return {1: torch.uint8, 2: torch.int16}.get(tensor.element_size(), torch.int32)
