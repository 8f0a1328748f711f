import collections
import functools

import torch

from pyhook._device import held

CPU = torch.device("cpu")
VARIABLE = torch.zeros(1)
MEMORY = {"a": torch.zeros(2)}


def found(*of):
    return {tensor.numel() for tensor in held.tensors(of, CPU)}


class Slots:
    __slots__ = ("unset", "value")

    def __init__(self, value):
        self.value = value


class Attributes(Slots):
    def __init__(self, value, other):
        super().__init__(value)
        self.other = other

    def hook(self, state, bucket):
        return None


def uses_variables(state, bucket):
    return VARIABLE, MEMORY, torch.zeros


def closure(tensor, default):
    def hook(state, bucket, default=default):
        return tensor

    return hook


def test_what_a_hook_and_its_state_hold():
    deep = [(torch.zeros(1), {"x": {torch.zeros(2)}}), collections.deque([torch.zeros(3)])]
    assert found(deep) == {1, 2, 3}
    assert found(Attributes(torch.zeros(4), [torch.zeros(5)]).hook) == {4, 5}
    made = closure(torch.zeros(7), torch.zeros(6))
    assert found(functools.partial(made, [torch.zeros(8)])) == {6, 7, 8}
    assert found(uses_variables) == {1, 2}
    assert found(torch.nn.Linear(3, 5)) == {15, 5}
    assert found(torch.zeros(4, device="meta"), None, 3, "text", torch) == set()


def test_it_ends():
    ring = [torch.zeros(3)]
    ring.append(ring)
    assert found(ring, ring[0]) == {3}
    endless = functools.reduce(lambda inside, _: [inside], range(20_000), torch.zeros(4))
    assert found(endless, torch.zeros(2)) == {2}
