"""Saved states that were changed by fuzzed bytes, with a digest that fits."""

import collections
import copy
import hashlib
import json
import random
import sys
import threading

import numpy as np
import torch
from sample import done

from pyhook._state import file


class Inner:
    def __init__(self):
        self.values = [1, 2.5, "x"]


class Slots:
    __slots__ = ("a", "b")

    def __init__(self):
        self.a, self.b = 1, [2]


class Getter:
    """Shows its content by pickle's protocol."""

    def __init__(self):
        self.n = 3

    def __getstate__(self):
        return {"n": self.n, "list": [1]}

    def __setstate__(self, content):
        self.n = content["n"]


class Everything:
    """Has a value of each kind that the format knows."""

    def __init__(self):
        base = torch.arange(12, dtype=torch.float32)
        self.numbers = [True, None, -5, 1 << 80, float("nan"), -0.0, 2j, "text", b"bytes"]
        self.more = (bytearray(b"abc"), ..., torch.float16, torch.device("cpu"))
        self.size = torch.Size([2, 3])
        self.sets = [{1, 2}, frozenset({"a"}), collections.deque([1, 2], maxlen=3)]
        self.dicts = {1: "a", "b": {2.5: [3]}}
        self.ordered = collections.OrderedDict(x=1, y=2)
        self.default = collections.defaultdict(list, {"k": [1]})
        self.tensor = base
        self.view = base[2:8].view(2, 3).t()
        self.half = base.half()
        self.empty = torch.zeros(0, 3)
        self.parameter = torch.nn.Parameter(torch.ones(3))
        self.array = np.arange(6, dtype="<f8").reshape(2, 3)
        self.fortran = np.asfortranarray(self.array)
        self.scalar, self.words = np.float32(1.5), np.array(["ab", ""])
        self.generators = [np.random.RandomState(1), np.random.default_rng(2)]
        self.torch_generator = torch.Generator().manual_seed(3)
        self.python_generator = random.Random(4)
        self.inner, self.slots, self.getter = Inner(), Slots(), Getter()
        self.again = self.inner  # one object twice
        self.ring = [1]
        self.ring.append(self.ring)
        self.lock, self.function, self.module = threading.Lock(), done, np


def hook(state, bucket):
    return done(bucket.buffer())


WORDS = [
    *("", "list", "dict", "set", "deque", "tuple", "object", "keep", "pickle", "ref"),
    *("tensor", "parameter", "array", "scalar", "torch_rng", "random", "numpy_rng"),
    *("int", "float", "complex", "bytes", "dtype", "device", "Size", "frozenset"),
    *("attributes", "setstate", "state_dict", "defaultdict", "int", "process group"),
    *("float32", "complex128", "qint8", "bool", "load", "__class__", "cuda:9", "meta"),
    *("<U0", "|S0", "<f8", "|O", "<M8[1000Y]", "<c16", "<U99999999", "C", "F", "MT19937"),
    *("PCG64", "os.system", "builtins.eval", "forge.Inner", "__dict__", "7ff8000000000001"),
]
NUMBERS = [-1, 0, 1, 2, 7, 600, 625, 1 << 20, 1 << 31, 1 << 33, 1 << 40, 1 << 61, 1 << 62]
NODES = [
    [],
    {},
    {"t": "pickle", "at": [0, 8]},
    {"t": "ref", "id": 0},
    {"t": "bytes", "at": [0, 64]},
    {"t": "object", "class": "forge.Inner", "how": "attributes", "v": {}, "id": 900},
    {"t": "object", "class": "os._wrap_close", "how": "attributes", "v": {}, "id": 901},
    {"t": "array", "dtype": "<U0", "shape": [1 << 33], "order": "C", "at": [0, 0]},
    {"t": "array", "dtype": "<f8", "shape": [1 << 33, 0], "order": "C", "at": [0, 0]},
    {"t": "list", "v": [{"t": "ref", "id": 902}], "id": 902},
    {"t": "keep", "v": "process group"},
    {"t": "int", "v": "f" * 5000},
    {"t": "deque", "max": 1 << 40, "v": [1], "id": 903},
    {"t": "Size", "v": [1 << 62, -1]},
    {"t": "torch_rng", "device": "cpu", "v": None},
]
NAMES = ["t", "v", "id", "at", "dtype", "shape", "stride", "offset", "storage", "how"]
NAMES += ["class", "max", "cls", "factory", "state", "bit_generator", "order", "device"]


class Reader:
    """Numbers out of bytes; 0 at their end."""

    def __init__(self, edits):
        self.rest = list(edits)

    def __call__(self, below):
        if below > 256:
            return (self(256) << 8 | self(256)) % below
        return self.rest.pop(0) % below if self.rest else 0

    def value(self):
        kind = self(4)
        pool = (WORDS, NUMBERS, NODES, [None, True, 0.5, float("inf")])[kind]
        return copy.deepcopy(pool[self(len(pool))])


def forged(data, edits):
    """The file with its header or payload changed as the bytes say, at most 8 times."""
    version, length = file._FIXED.unpack_from(data, file._START)
    at = file._START + file._FIXED.size
    header, payload = json.loads(data[at : at + length]), bytearray(data[at + length :])
    r = Reader(edits)
    for _ in range(8):
        if not r.rest:
            break
        change(header, payload, r)
    text = json.dumps(header).encode()
    return sealed(file._FIXED.pack(version, len(text)) + text + bytes(payload))


def sealed(body):
    return file.MAGIC + hashlib.sha256(body).digest() + body


def scratched(data, edits):
    """The file with bytes changed, or cut short; and the digest made to fit, or not."""
    r, body = Reader(edits), bytearray(data[file._START :])
    fits = r(4) > 0
    for _ in range(8):
        if not r.rest or not body:
            break
        offset = r(min(len(body), 1 << 16))
        if r(8) == 0:
            del body[offset:]
        else:
            body[offset] = r(256)
    return sealed(bytes(body)) if fits else data[: file._START] + bytes(body)


def slots(tree):
    """Every (container, key) in the tree."""
    found, todo = [], [tree]
    while todo:
        node = todo.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in items:
            found.append((node, key))
            if isinstance(child, (dict, list)):
                todo.append(child)
    return found


def change(header, payload, r):
    everywhere = slots(header)
    container, key = everywhere[r(len(everywhere))]
    what = r(8)
    if what == 0:
        container[key] = r.value()
    elif what == 1:  # the value of another place
        other, name = everywhere[r(len(everywhere))]
        container[key] = copy.deepcopy(other[name])
    elif what == 2:
        del container[key]
    elif what == 3 and isinstance(container, list):
        container.insert(key, r.value())
    elif what == 3:
        container[NAMES[r(len(NAMES))]] = r.value()
    elif what == 4 and type(container[key]) is int:
        container[key] += (1, -1, 8, 1 << 31, 1 << 62)[r(5)]
    elif what == 5:
        container[key] = {"t": "list", "v": [container[key]], "id": 1000 + r(4)}
    elif what == 6 and payload:
        payload[r(len(payload))] = r(256)
    elif what == 7:
        del payload[r(len(payload) + 1) :]


# What runs while a file is read.

FORBIDDEN = {
    *("compile", "exec", "import", "marshal.loads", "pickle.find_class", "code.__new__"),
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"),
    *("open", "socket.connect", "ctypes.dlopen", "os.remove", "os.rename", "os.putenv"),
}
auditing, seen = [False], []


def audit(event, args):
    if auditing[0] and event in FORBIDDEN:
        if not (event == "open" and str(args[0]).endswith(".py")):  # a warning's text
            seen.append(f"{event} {args!r:.200}")


def audit_restores():
    """From now on, note what restoring a state does that it must not."""
    sys.addaudithook(audit)
    restore = file.restore_hook

    def audited(*args):
        auditing[0] = True
        try:
            return restore(*args)
        finally:
            auditing[0] = False

    file.restore_hook = audited


def ran():
    return list(seen)
