"""Saving and restoring states: what is refused, and what a file cannot do."""

import functools
import hashlib
import json
import pickle
import random
import sys

import numpy as np
import pytest
import torch
from test_state import Inner, Power, content, values

from pyhook._errors import StateError
from pyhook._state import file
from pyhook._state.file import load_state, save_state, state_info


class Outer:
    def __init__(self, foo):
        self.foo = foo


class Bad:
    def __reduce__(self):
        return print, ("x",)


@pytest.mark.parametrize(
    ("foo", "path"),
    [
        ([0, 1, 2, Outer(Bad())], r"state\.foo\[3\]\.foo: <test_state_refused\.Bad>"),
        ({"k": lambda: 0}, r"state\.foo\['k'\]: <builtins\.function>"),
        (torch.futures.Future(), "futures of all buckets"),
        ({Outer(1): 2}, "as a key"),
        (torch.eye(2).to_sparse(), r"state\.foo: <torch\.Tensor>"),
        (functools.reduce(lambda a, _: [a], range(200), []), "nested more than"),
    ],
)
def test_what_cannot_be_saved_is_named(foo, path):
    with pytest.raises(StateError, match=path) as caught:
        save_state(Outer(foo))
    assert caught.value.code == "state_unsafe"
    assert caught.value.hint


def refused(code, data, **options):
    with pytest.raises(StateError) as caught:
        load_state(data, **options)
    assert caught.value.code == code, caught.value
    return caught.value


def test_a_refused_file_leaves_the_state_as_it_was():
    saved = save_state(Outer([{"a": 1}, Outer(Outer(5))]))
    state = Outer([{"a": 0}, Outer(None)])
    error = refused("state_class", saved, into=state)
    assert "state.foo[1].foo" in error.message
    assert state.foo[0] == {"a": 0}
    assert refused("state_class", saved, into=Inner()).hint
    refused("state_class", saved)
    refused("state_immutable", save_state((1, 2)), into=(1, 3))


def forged(data, change=lambda header: None, version=None):
    """The file with another header or version, and a digest that fits."""
    version_, length = file._FIXED.unpack_from(data, file._START)
    at = file._START + file._FIXED.size
    header = json.loads(data[at : at + length])
    header = change(header) or header
    text = json.dumps(header).encode()
    body = file._FIXED.pack(version or version_, len(text)) + text + data[at + length :]
    return file.MAGIC + hashlib.sha256(body).digest() + body


def test_damage_is_seen_wherever_it_is():
    data = save_state({"a": torch.arange(3), "b": [1, "x"]})
    for i in range(len(data)):
        refused("state_corrupt", data[:i])
        refused("state_corrupt", data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :])
    refused("state_corrupt", data + b"\0")
    assert "version 2" in refused("state_version", forged(data, version=2)).message
    refused("state_corrupt", forged(data, lambda header: [1]))


def test_forged_files_give_a_state_error_or_a_value():
    data = save_state({**values(), "object": Outer(1)})
    chance = random.Random(5)

    def entries(node, found):
        if isinstance(node, (dict, list)):
            for key in node if isinstance(node, dict) else range(len(node)):
                found.append((node, key))
                entries(node[key], found)
        return found

    junk = [
        None,
        -1,
        1 << 70,
        "x",
        [],
        {},
        1.5,
        True,
        "os.system",
        {"t": "ref", "id": 3},
        {"t": "keep", "v": "x"},
    ]

    def change(header):
        found = entries(header, [])
        for _ in range(chance.randint(1, 3)):
            node, key = chance.choice(found)
            node[key] = chance.choice([*junk, chance.choice(found)[0]])

    errors = 0
    for _ in range(400):
        try:
            made = forged(data, change)
        except (ValueError, RecursionError):
            continue  # it made a cycle
        try:
            load_state(made, into={"object": Outer(0)})
        except StateError:
            errors += 1
    assert errors > 100


ran = []


def run_this(text):
    ran.append(text)


class Malicious:
    def __reduce__(self):
        return run_this, ("it ran",)


def test_a_file_cannot_run_anything_by_default(tmp_path, monkeypatch):
    refused("state_corrupt", pickle.dumps(Malicious()))
    data = save_state(Outer(Malicious()), trusted=True)
    assert state_info(data)["pickled"] == ["state.foo"]
    assert "trusted=True" in refused("state_unsafe", data, into=Outer(0)).hint
    assert ran == []
    load_state(data, into=Outer(0), trusted=True)
    assert ran == ["it ran"]

    # A class that a file names is not looked for: importing can run things too.
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    good = save_state(Outer(Outer(1)))

    def rename(header):
        header["state"]["v"]["v"][0][1]["class"] = "evil_module.Class"

    refused("state_class", forged(good, rename), into=Outer(Outer(1)))
    refused("state_class", forged(good, rename), into=Outer(None))
    refused(
        "state_class",
        forged(good, lambda h: h.update({"class": "evil_module.Class"})),
        into=Outer(1),
    )
    assert "evil_module" not in sys.modules

    # numpy does not check this one itself, and reads past its buffer.
    rng = save_state([np.random.RandomState(0)])
    refused(
        "state_corrupt", forged(rng, lambda h: json.loads(json.dumps(h).replace("624", "62400000")))
    )


def test_a_trusted_file_needs_no_counterpart(group):
    power = Power(group)
    power.run(0, 3)
    data = save_state(power.state, trusted=True)
    refused("state_class", data)
    new = load_state(data, trusted=True)
    assert content(new) == content(power.state)
    assert new.process_group is group


def test_another_ranks_state_is_refused(group):
    data = forged(save_state([1]), lambda header: header.update(rank=1, world_size=4))
    assert "rank 1 of 4" in refused("state_rank", data).message
    assert load_state(data, any_rank=True) == [1]


def test_tensors_go_to_the_device_that_is_asked_for():
    data = forged(
        save_state([torch.ones(2)]), lambda header: header["storages"][0].update(device="cuda:63")
    )
    assert 'device="cpu"' in refused("state_unsupported", data).hint
    assert load_state(data, device="cpu")[0].tolist() == [1, 1]


def test_a_small_file_cannot_ask_for_much_memory():
    saved = save_state({"a": b"x" * 1000})

    def share(header):
        node = header["state"]["v"][0][1]
        header["state"]["v"] = [[i, {**node, "id": 100 + i}] for i in range(2)]

    assert "share bytes" in refused("state_corrupt", forged(saved, share)).message

    array = save_state({"a": np.ndarray((3,), np.dtype("<U0"), buffer=bytearray())})

    def grow(header):
        header["state"]["v"][0][1]["shape"] = [1 << 40]

    loaded = load_state(forged(array, grow))["a"]
    assert (loaded.nbytes, loaded.dtype, loaded.shape) == (0, np.dtype("<U0"), (1 << 40,))
