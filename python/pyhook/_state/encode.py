"""Encodes a state as a JSON tree and bytes. ``file`` describes the format."""

from __future__ import annotations

import collections
import ctypes
import math
import pickle
import random
import struct
from typing import Any, Callable

import torch

from .._device.streams import synchronize
from .._errors import StateError
from .._runtime.parameters import of_the_trainer, trainers_name
from .parts import (
    BIT_GENERATORS,
    FACTORIES,
    MAX_DEPTH,
    class_name,
    content_of,
    kept,
    short,
    untyped_storage,
)

Node = Any
"""None, a bool, an int, a finite float, a string, or a dict with a kind, "t"."""

_HINT = (
    "give its class state_dict() and load_state_dict(), keep it out of the state, or save "
    "and load with trusted=True (pickle: then load only files that you wrote)"
)


class Encoder:
    """Makes the nodes of one file, and the ``blobs`` that they point into."""

    def __init__(self, trusted: bool) -> None:
        self.blobs: list[bytes] = []
        self.storages: list[Node] = []
        self.pickled: list[str] = []  # paths
        self._trusted = trusted
        self._size = 0
        self._depth = 0
        # By id: the number, and the value, so that the id stays taken.
        self._seen: dict[int, tuple[int, Any]] = {}
        self._open: set[int] = set()  # tuples that are being encoded
        self._memory: dict[tuple[int, int, str], int] = {}
        self._synchronized: set[torch.device] = set()

    def encode(self, value: Any, path: str) -> Node:
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            name = trainers_name(value)
            if name is not None:  # id(parameter) is another number in the next process
                if not name:
                    raise self._unsafe(path, value, "the id() of a parameter without a name")
                return {"t": "address", "v": name}
            return value if abs(value) < 1 << 63 else {"t": "int", "v": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"t": "float", "v": _hex(value)}
        if id(value) in self._open:
            raise self._unsafe(path, value, "a tuple that holds itself")
        if id(value) in self._seen:
            return {"t": "ref", "id": self._seen[id(value)][0]}
        number = len(self._seen)
        self._seen[id(value)] = (number, value)
        if self._depth >= MAX_DEPTH:
            raise self._unsafe(path, value, f"nested more than {MAX_DEPTH} deep")
        self._depth += 1
        node = self._node(value, path)
        self._depth -= 1
        return {**node, "id": number}

    def _node(self, value: Any, path: str) -> Node:
        name = trainers_name(value)
        if name:
            return {"t": "model_parameter", "v": name}
        made = _ENCODERS.get(type(value))
        if made is not None and not of_the_trainer(value):
            return made(self, value, path)
        if isinstance(value, torch.dtype):
            return {"t": "dtype", "v": str(value).rpartition(".")[2]}
        if isinstance(value, (torch.finfo, torch.iinfo)):
            return {"t": type(value).__name__, "v": str(value.dtype)}
        description = kept(value)
        if description is not None:
            return {"t": "keep", "v": description}
        if type(value).__module__.partition(".")[0] == "numpy":
            node = self._numpy(value, path)
            if node is not None:
                return node
        if isinstance(value, torch._C.Future):
            return self._pickle(value, path)
        try:
            parts = content_of(value)
        except StateError:
            raise  # an object may say so itself
        except Exception as error:
            raise StateError(
                "state_failed",
                f"{path}: {class_name(type(value))} could not give its state: "
                f"{type(error).__name__}: {error}",
            ) from error
        if parts is None:
            return self._pickle(value, path)
        how, content = parts
        return {
            "t": "object",
            "class": class_name(type(value)),
            "how": how,
            "v": self._content(content, path),
        }

    def _content(self, content: Any, path: str) -> Node:
        """Encode a dict of attributes, with their paths."""
        if type(content) is not dict or not all(type(name) is str for name in content):
            return self.encode(content, path)
        number = len(self._seen)
        self._seen[id(content)] = (number, content)
        items = [[name, self.encode(v, f"{path}.{name}")] for name, v in content.items()]
        return {"t": "dict", "cls": "dict", "v": items, "id": number}

    def _pickle(self, value: Any, path: str) -> Node:
        if not self._trusted:
            raise self._unsafe(path, value)
        try:
            data = pickle.dumps(value)
        except Exception as error:
            what = f"and it cannot be pickled either: {type(error).__name__}: {error}"
            raise self._unsafe(path, value, what) from error
        self.pickled.append(path)
        return {"t": "pickle", "at": self._blob(data)}

    def _unsafe(self, path: str, value: Any, why: str = "") -> StateError:
        hint = _HINT
        if isinstance(value, torch._C.Future):
            hint = "save between steps, when the futures of all buckets are done and dropped"
        what = f"{path}: <{class_name(type(value))}> cannot be saved safely"
        return StateError("state_unsafe", f"{what}, {why}" if why else what, hint)

    def _blob(self, data: bytes) -> list[int]:
        at = [self._size, len(data)]
        self.blobs.append(data)
        self._size += len(data)
        return at

    def _bytes(self, value: Any, path: str) -> Node:
        return {"t": type(value).__name__, "at": self._blob(bytes(value))}

    def _complex(self, value: complex, path: str) -> Node:
        return {"t": "complex", "v": [_hex(value.real), _hex(value.imag)]}

    def _sequence(self, value: Any, path: str) -> Node:
        frozen = isinstance(value, (tuple, frozenset))
        if frozen:
            self._open.add(id(value))
        items = [self.encode(item, f"{path}[{i}]") for i, item in enumerate(value)]
        self._open.discard(id(value))
        node: dict[str, Any] = {"t": type(value).__name__, "v": items}
        if isinstance(value, collections.deque):
            node["max"] = value.maxlen
        return node

    def _dict(self, value: Any, path: str) -> Node:
        node: dict[str, Any] = {"t": "dict", "cls": type(value).__name__}
        if isinstance(value, collections.defaultdict) and value.default_factory is not None:
            name = getattr(value.default_factory, "__name__", "")
            if FACTORIES.get(name) is not value.default_factory:
                raise self._unsafe(path, value, "because of what it makes defaults with")
            node["factory"] = name
        items = []
        for key, item in value.items():
            # An object as a key is found by its address, which will differ.
            _check_key(key, f"{path}: the key {short(key)}", self)
            items.append(
                [self.encode(key, f"{path} key"), self.encode(item, f"{path}[{short(key)}]")]
            )
        node["v"] = items
        return node

    def _tensor(self, value: Any, path: str) -> Node:
        quantized = str(value.dtype).startswith(("torch.qint", "torch.quint"))
        if value.layout is not torch.strided or quantized or value.is_meta:
            return self._pickle(value, path)
        self._synchronize(value.device)
        plain = value.detach()
        if plain.is_conj() or plain.is_neg():
            plain = plain.resolve_conj().resolve_neg()
        return {
            "t": "parameter" if type(value) is torch.nn.Parameter else "tensor",
            "dtype": str(value.dtype).rpartition(".")[2],
            "storage": self._storage(plain),
            "offset": plain.storage_offset(),
            "shape": list(plain.shape),
            "stride": list(plain.stride()),
            "grad": bool(value.requires_grad and value.is_leaf),
        }

    def _synchronize(self, device: torch.device) -> None:
        """Wait for all streams of a device: a hook's is not the one that reads its tensors here."""
        if device not in self._synchronized:
            synchronize(device)
            self._synchronized.add(device)

    def _storage(self, tensor: Any) -> int:
        """Return the number of a tensor's memory. Views share it in the file as they do here."""
        storage = untyped_storage(tensor)
        key = (storage.data_ptr(), storage.nbytes(), str(tensor.device))
        if key in self._memory and storage.nbytes():
            return self._memory[key]
        raw = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage).cpu()
        self._memory[key] = len(self.storages)
        data = ctypes.string_at(raw.data_ptr(), raw.numel()) if raw.numel() else b""
        self.storages.append({"at": self._blob(data), "device": str(tensor.device)})
        return self._memory[key]

    def _torch_rng(self, value: Any, path: str) -> Node:
        state = self.encode(value.get_state(), f"{path}.get_state()")
        return {"t": "torch_rng", "device": str(value.device), "v": state}

    def _random(self, value: random.Random, path: str) -> Node:
        return {"t": "random", "v": self.encode(value.getstate(), f"{path}.getstate()")}

    def _numpy(self, value: Any, path: str) -> Node:
        import numpy as np

        if type(value) is np.ndarray or isinstance(value, np.generic):
            if value.dtype.kind not in "biufcSUMm":
                return None
            fortran = value.flags.f_contiguous and not value.flags.c_contiguous
            return {
                "t": "array" if type(value) is np.ndarray else "scalar",
                "dtype": value.dtype.str,
                "shape": list(value.shape),
                "order": "F" if fortran else "C",
                "at": self._blob(value.tobytes(order="F" if fortran else "C")),
            }
        if type(value) is np.random.RandomState:
            state: Any = value.get_state(legacy=False)
        elif type(value) is np.random.Generator:
            state = value.bit_generator.state
        else:
            return None
        if state["bit_generator"] not in BIT_GENERATORS:
            return None
        return {
            "t": "numpy_rng",
            "cls": type(value).__name__,
            "v": self.encode(state, f"{path}.get_state()"),
        }


def _check_key(key: Any, path: str, encoder: Encoder) -> None:
    if isinstance(key, (tuple, frozenset)):
        for part in key:
            _check_key(part, path, encoder)
    elif type(key) not in _KEYS and not isinstance(key, torch.dtype) and not trainers_name(key):
        raise encoder._unsafe(path, key, "as a key: use a number or a name")


def _hex(value: float) -> str:
    return struct.pack(">d", value).hex()


_KEYS = (type(None), bool, int, float, complex, str, bytes, torch.device, torch.Size)

_ENCODERS: dict[type, Callable[[Encoder, Any, str], Node]] = {
    bytes: Encoder._bytes,
    bytearray: Encoder._bytes,
    complex: Encoder._complex,
    type(...): lambda encoder, value, path: {"t": "ellipsis"},
    list: Encoder._sequence,
    tuple: Encoder._sequence,
    set: Encoder._sequence,
    frozenset: Encoder._sequence,
    collections.deque: Encoder._sequence,
    torch.Size: Encoder._sequence,
    dict: Encoder._dict,
    collections.OrderedDict: Encoder._dict,
    collections.defaultdict: Encoder._dict,
    torch.device: lambda encoder, value, path: {"t": "device", "v": str(value)},
    torch.Tensor: Encoder._tensor,
    torch.nn.Parameter: Encoder._tensor,
    torch.Generator: Encoder._torch_rng,
    random.Random: Encoder._random,
}
