"""Decodes tensors, arrays and numpy's random generators."""

from __future__ import annotations

import ctypes
import re
from typing import Any, Optional

import torch

from .._errors import StateError
from .parts import BIT_GENERATORS

_NUMPY_DTYPE = re.compile(r"[<>|=][biufcSUMm]\d+(\[\d*[a-zA-Z]+\])?")


class Memory:
    """The payload of a file, and the memory that its tensors share."""

    def __init__(self, storages: list[Any], payload: bytes, device: Optional[str]) -> None:
        self._storages = storages
        self._payload = payload
        self._left = len(payload)  # bytes that no value has taken
        self._device = device
        self._loaded: dict[int, Any] = {}

    def blob(self, at: Any) -> bytes:
        """Return bytes of the payload, once: else a small file could ask for all memory."""
        start, length = at
        if not whole(start, length) or start + length > len(self._payload):
            raise ValueError("outside of the payload")
        self._left -= length
        if self._left < 0:
            raise ValueError("values that share bytes of the payload")
        return self._payload[start : start + length]

    def on(self, name: str) -> Any:
        """Return the device that a value goes to, if it is here."""
        device = torch.device(self._device or name)
        try:
            torch.empty(0, device=device)
        except Exception as error:
            raise StateError(
                "state_unsupported",
                f"there is no device {device} here: {error}",
                'load with device="cpu", or another',
            ) from error
        return device

    def tensor(self, node: Any) -> Any:
        raw, dtype = self._storage(node["storage"]), dtype_of(node["dtype"])
        shape, stride, offset = node["shape"], node["stride"], node["offset"]
        item = torch.empty(0, dtype=dtype).element_size()
        capacity = raw.numel() // item
        if not whole(offset, *shape, *stride) or len(shape) != len(stride):
            raise ValueError("tensor")
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride))
        if offset > capacity or (0 not in shape and last >= capacity):
            raise ValueError("a tensor outside of its memory")
        flat = raw[: capacity * item].view(dtype)
        made = torch.empty(0, dtype=dtype, device=raw.device).set_(flat)
        made.as_strided_(shape, stride, offset)
        return made

    def _storage(self, number: Any) -> Any:
        if not whole(number):
            raise ValueError("storage")
        if number not in self._loaded:
            node = self._storages[number]
            data = self.blob(node["at"])
            raw = torch.empty(len(data), dtype=torch.uint8)
            if data:
                ctypes.memmove(raw.data_ptr(), data, len(data))
            self._loaded[number] = raw.to(self.on(node["device"]))
        return self._loaded[number]


def whole(*numbers: Any) -> bool:
    return all(type(n) is int and 0 <= n < 1 << 62 for n in numbers)


def dtype_of(name: Any) -> Any:
    found = getattr(torch, name, None) if re.fullmatch(r"\w+", name) else None
    if not isinstance(found, torch.dtype):
        raise StateError(
            "state_unsupported", f"torch {torch.__version__} has no dtype {name!r:.60}"
        )
    return found


def numpy() -> Any:
    try:
        import numpy as np
    except ImportError as error:
        raise StateError(
            "state_unsupported", "the state has numpy values, and there is no numpy here"
        ) from error
    return np


def array(node: Any, data: bytes) -> Any:
    """Return an array, or for ``"t": "scalar"`` numpy's kind of number."""
    np = numpy()
    if not _NUMPY_DTYPE.fullmatch(node["dtype"]) or node["order"] not in ("C", "F"):
        raise ValueError("dtype")
    dtype = np.dtype(node["dtype"])
    if not whole(*node["shape"]):
        raise ValueError("shape")
    if dtype.itemsize == 0:  # empty text: zeros() would make text of one letter
        made = np.ndarray(node["shape"], dtype, buffer=bytearray(), order=node["order"])
    else:
        flat = np.frombuffer(data, dtype) if data else np.zeros(0, dtype)
        made = flat.reshape(node["shape"], order=node["order"]).copy(order=node["order"])
    return made[()] if node["t"] == "scalar" else made


def generator(cls: Any, state: Any) -> Any:
    """Return a RandomState or Generator in this state.

    It checks the position in the buffer: numpy does not, and reads past the end.
    """
    np = numpy()
    name = state["bit_generator"]
    if name not in BIT_GENERATORS or cls not in ("RandomState", "Generator"):
        raise ValueError("bit generator")
    limit = {"MT19937": ("pos", 624), "Philox": ("buffer_pos", 4)}.get(name)
    if limit is not None:
        within = state["state"] if name == "MT19937" else state
        position = within[limit[0]]
        if not 0 <= int(position) <= limit[1]:
            raise ValueError("position")
    if name == "MT19937" and np.asarray(state["state"]["key"]).shape != (624,):
        raise ValueError("key")
    made = getattr(np.random, cls)(getattr(np.random, name)(0))
    set_state(made, state)
    return made


def set_state(target: Any, state: Any) -> None:
    """Set what ``generator`` has checked."""
    if type(target).__name__ == "RandomState":
        target.set_state(state)
    else:
        target.bit_generator.state = state


def algorithm(of: Any) -> Any:
    """Return the name of the algorithm of numpy's generator."""
    if type(of).__name__ == "RandomState":
        return of.get_state(legacy=False)["bit_generator"]
    return of.bit_generator.state["bit_generator"]
