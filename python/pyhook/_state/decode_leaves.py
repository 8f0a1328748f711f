"""Decoding values that hold no others: numbers, tensors, arrays, random generators."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Any, Callable

import torch

from .._errors import StateError
from . import arrays
from .parts import MISSING

if TYPE_CHECKING:
    from .decode import Decoder


def _bytes(decoder: Decoder, node: Any, old: Any, path: str) -> Any:
    data = decoder.memory.blob(node["at"])
    if node["t"] == "bytearray":
        return bytearray(data)
    return old if type(old) is bytes and old == data else data


def _tensor(decoder: Decoder, node: Any, old: Any, path: str) -> Any:
    made = decoder.memory.tensor(node)
    grad = node["grad"] is True
    if node["t"] != "parameter":
        return made.requires_grad_(grad)
    if not isinstance(old, torch.nn.Parameter):
        return torch.nn.Parameter(made, requires_grad=grad)
    if old.shape != made.shape or old.dtype != made.dtype:
        raise StateError(
            "state_class",
            f"{path}: the file has a {made.dtype} parameter {tuple(made.shape)}, and the state "
            f"to restore a {old.dtype} one {tuple(old.shape)}",
        )
    decoder.later(path, lambda: old.copy_(made))  # the model holds it too
    return old


def _torch_rng(decoder: Decoder, node: Any, old: Any, path: str) -> Any:
    device = decoder.memory.on(node["device"])
    state = decoder.decode(node["v"], MISSING, path)
    new = torch.Generator(device=device)
    new.set_state(state)
    if not decoder.claim(old, isinstance(old, torch.Generator) and old.device == device):
        return new
    decoder.later(path, lambda: old.set_state(state))
    return old


def _random(decoder: Decoder, node: Any, old: Any, path: str) -> Any:
    state = decoder.decode(node["v"], MISSING, path)
    new = random.Random()
    new.setstate(state)
    if not decoder.claim(old, type(old) is random.Random):
        return new
    decoder.later(path, lambda: old.setstate(state))
    return old


def _numpy_rng(decoder: Decoder, node: Any, old: Any, path: str) -> Any:
    state = _plain(decoder, node["v"], path)
    new = arrays.generator(node["cls"], state)
    same = type(old) is type(new) and arrays.algorithm(old) == arrays.algorithm(new)
    if not decoder.claim(old, same):
        return new
    decoder.later(path, lambda: arrays.set_state(old, state))
    return old


def _array(decoder: Decoder, node: Any, old: Any, path: str) -> Any:
    return arrays.array(node, decoder.memory.blob(node["at"]))


def _complex(decoder: Decoder, node: Any, old: Any, path: str) -> Any:
    return complex(*(_number(part) for part in node["v"]))


def _float(decoder: Decoder, node: Any, old: Any, path: str) -> Any:
    value = _number(node["v"])
    return old if type(old) is float and repr(old) == repr(value) else value


def _plain(decoder: Decoder, node: Any, path: str) -> Any:
    """Decode a value and fill its containers now."""
    first = len(decoder.steps)
    value = decoder.decode(node, MISSING, path)
    for _, step in decoder.steps[first:]:
        step()
    return value


def _number(text: str) -> float:
    return float(struct.unpack(">d", bytes.fromhex(text))[0])


LEAVES: dict[str, Callable[[Decoder, Any, Any, str], Any]] = {
    "bytes": _bytes,
    "bytearray": _bytes,
    "int": lambda decoder, node, old, path: int(node["v"], 16),
    "float": _float,
    "complex": _complex,
    "ellipsis": lambda decoder, node, old, path: ...,
    "dtype": lambda decoder, node, old, path: arrays.dtype_of(node["v"]),
    "finfo": lambda decoder, node, old, path: torch.finfo(arrays.dtype_of(node["v"])),
    "iinfo": lambda decoder, node, old, path: torch.iinfo(arrays.dtype_of(node["v"])),
    "device": lambda decoder, node, old, path: torch.device(node["v"]),
    "tensor": _tensor,
    "parameter": _tensor,
    "torch_rng": _torch_rng,
    "random": _random,
    "numpy_rng": _numpy_rng,
    "array": _array,
    "scalar": _array,
}
