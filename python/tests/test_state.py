"""Saving and restoring states: a resumed run is the run that was not stopped."""

import collections
import functools
import hashlib
import json
import os
import random
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import torch.distributed as dist

from pyhook import load_hook, testing
from pyhook._errors import StateError
from pyhook._loading.load import build_state
from pyhook._runtime.bucket import new_bucket
from pyhook._state.file import load_state, restore_hook, save_hook, save_state, state_info

BUCKETS = ([(12, 9), (9,)], [(20, 6)], [(7,), (6, 5, 4), (3, 3)])
POWER = {"matrix_approximation_rank": 2, "start_powerSGD_iter": 2}


class Power:
    """PowerSGD over three buckets, its gradients drawn by step number."""

    def __init__(self, group, seed=0):
        self.state = build_state("powersgd", POWER, group)
        self.seed = seed
        self.layouts = []
        for i, shapes in enumerate(BUCKETS):
            bucket = testing.bucket([torch.zeros(s) for s in shapes], index=i, count=len(BUCKETS))
            self.layouts.append(bucket._layout)

    def run(self, first, last):
        """The digest of all results, and of the state, after steps first to last-1."""
        hook, sum_ = load_hook("powersgd"), hashlib.sha256()
        for step in range(first, last):
            random_ = torch.Generator().manual_seed(step + 100 * self.seed)
            for layout in self.layouts:
                layout.tensor.copy_(torch.randn(layout.tensor.shape, generator=random_))
                result = testing.run(hook, self.state, new_bucket(layout))
                sum_.update(result.numpy().tobytes())
        return sum_.hexdigest(), content(self.state)


def content(state):
    """All of a PowerSGDState but its group, as text that is equal only if bits are."""
    out = []
    for slot in sorted(state.__slots__):
        value = getattr(state, slot)
        if slot == "process_group":
            continue
        if slot == "rng":
            value = [
                str(part) if np.isscalar(part) else part.tolist() for part in value.get_state()
            ]
        elif isinstance(value, dict):
            value = [[repr(k), v.shape, v.numpy().tobytes().hex()] for k, v in value.items()]
        out.append([slot, repr(value)])
    return out


def resume_in_this_process(path):
    """What the new process of the test below runs."""
    with testing.process_group() as group:
        power = Power(group)
        with open(path, "rb") as file:
            load_state(file.read(), into=power.state)
        print(json.dumps(power.run(6, 12)))


def test_power_sgd_goes_on_as_if_it_had_not_been_stopped(group, tmp_path):
    whole, stopped, resumed = Power(group), Power(group), Power(group)
    whole.run(0, 6)
    stopped.run(0, 6)
    data = save_state(stopped.state)
    assert stopped.state.error_dict
    assert load_state(data, into=resumed.state) is resumed.state
    assert resumed.state.process_group is group
    assert content(resumed.state) == content(stopped.state)
    expected = whole.run(6, 12)
    assert resumed.run(6, 12) == expected
    assert Power(group).run(6, 12) != expected  # so the state does matter

    (tmp_path / "state").write_bytes(data)
    code = f"import test_state; test_state.resume_in_this_process({str(tmp_path / 'state')!r})"
    folder = os.path.dirname(os.path.abspath(__file__))
    path = os.pathsep.join([folder, *filter(None, sys.path)])
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(out.stdout.splitlines()[-1]) == json.loads(json.dumps(expected))


def one_of_two_ranks(rank, folder):
    """Runs 12 steps, whole and stopped at 6, on a real group of two."""
    store = dist.FileStore(os.path.join(folder, "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    whole, stopped, resumed = (Power(dist.group.WORLD, seed=rank) for _ in range(3))
    whole.run(0, 6)
    stopped.run(0, 6)
    with open(os.path.join(folder, str(rank)), "wb") as file:
        file.write(save_state(stopped.state))
    dist.barrier()
    with open(os.path.join(folder, str(1 - rank)), "rb") as file:
        other = file.read()
    with pytest.raises(StateError, match=f"rank {1 - rank} of 2") as caught:
        load_state(other, into=resumed.state)
    assert caught.value.code == "state_rank"
    with open(os.path.join(folder, str(rank)), "rb") as file:
        mine = file.read()
    assert mine != other  # error feedback is each rank's own
    load_state(mine, into=resumed.state)
    assert resumed.run(6, 12) == whole.run(6, 12)
    # torch 1.13 aborts now and then when a group with peers is taken down.
    dist.barrier()
    os._exit(0)


def test_each_of_two_ranks_goes_on_with_its_own_state(tmp_path):
    torch.multiprocessing.spawn(one_of_two_ranks, (str(tmp_path),), nprocs=2)


def test_what_the_file_says_wins_over_the_new_states_hyper_parameters(group):
    old = build_state("powersgd", {**POWER, "matrix_approximation_rank": 3}, group)
    new = load_state(save_state(old), into=build_state("powersgd", POWER, group))
    assert new.matrix_approximation_rank == 3


def test_post_local_sgd_keeps_its_groups(group):
    kwargs = {"start_localSGD_iter": 3, "subgroup": group}
    state = build_state("post_localsgd", kwargs, group)
    state.iter = 7
    new = build_state("post_localsgd", kwargs, group)
    assert load_state(save_state(state), into=new) is new
    assert (new.iter, new.process_group, new.subgroup) == (7, group, group)


def test_none_and_groups_are_empty_states(group):
    for saved in (None, group):
        for into in (None, group):
            assert load_state(save_state(saved), into=into) is into
    assert state_info(save_state(group))["class"] == ""
    with pytest.raises(StateError, match="empty state") as caught:
        load_state(save_state(None), into=Residuals())
    assert caught.value.code == "state_class"


class Inner:
    __slots__ = ("__private", "count")

    def __init__(self, count=0):
        self.count = count
        self.__private = count

    def private(self):
        return self.__private


class Averager:
    """Shows its content by state_dict, and clears itself before it takes one."""

    def __init__(self):
        self.sums = {}

    def state_dict(self):
        return self.sums

    def load_state_dict(self, sums):
        self.sums.clear()
        self.sums.update(sums)


class Residuals:
    def __init__(self):
        self.residuals = {}
        self.inner = [Inner(), Inner()]
        self.averager = Averager()
        self.lock = threading.Lock()
        self.activation = torch.relu
        self.model = torch.nn.Linear(2, 2)
        self.anchor = torch.nn.Parameter(torch.zeros(2))
        self.random = random.Random(1)
        self.generator = torch.Generator()


def used():
    state = Residuals()
    state.residuals = {0: torch.ones(3), (1, "a"): torch.zeros(2).half(), "n": [float("nan")]}
    state.inner = [Inner(5), Inner(6)]
    state.averager.sums["x"] = torch.full((2,), 3.0)
    state.anchor.data.fill_(4)
    state.random.random()
    state.generator.manual_seed(9)
    return state


def test_a_users_object_is_filled_in_place():
    state, new = used(), Residuals()
    parts = {name: id(value) for name, value in vars(new).items()}
    inner, sums = list(new.inner), new.averager.sums
    assert load_state(save_state(state), into=new) is new
    assert {name: id(value) for name, value in vars(new).items()} == parts
    assert new.inner == inner
    assert [i.count for i in inner] == [i.private() for i in inner] == [5, 6]
    assert new.averager.sums is sums
    assert sums["x"].tolist() == [3, 3]
    assert list(new.residuals) == [0, (1, "a"), "n"]
    assert new.residuals[1, "a"].dtype == torch.float16
    assert new.anchor.tolist() == [4, 4]
    assert torch.equal(new.model.weight, state.model.weight)
    assert new.random.random() == state.random.random()
    assert torch.equal(
        torch.rand(3, generator=new.generator), torch.rand(3, generator=state.generator)
    )


def values():
    flat = torch.arange(24.0)
    shared = [1]
    factory = collections.defaultdict(list, {"a": [1]})
    out = {
        "scalars": [
            None,
            True,
            0,
            -1,
            1 << 100,
            0.1,
            -0.0,
            float("inf"),
            1 + 2j,
            "\ud800ü",
            b"\0",
            ...,
        ],
        "containers": (
            (),
            [()],
            {1, 2},
            frozenset({3}),
            collections.OrderedDict(b=1, a=2),
            factory,
        ),
        "deque": collections.deque([1, 2], maxlen=2),
        "torch": [torch.float16, torch.device("cpu"), torch.Size([2, 3])],
        "views": [
            flat[4:8],
            flat.view(4, 6).t(),
            flat.expand(2, 24),
            torch.zeros(0, 3),
            torch.tensor(5),
        ],
        "same": [shared, shared, flat],
        "numpy": [np.float32(3), np.arange(6).reshape(2, 3).T, np.array("text"), np.zeros((0, 2))],
        "rng": [np.random.RandomState(3), np.random.default_rng(4)],
        "bytes": bytearray(b"x"),
    }
    out["cycle"] = [out]
    return out


def test_values_of_every_kind_come_back():
    old = values()
    new = load_state(save_state(old))
    assert repr(new["scalars"]) == repr(old["scalars"])
    for name in ("containers", "deque", "torch", "bytes"):
        assert repr(new[name]) == repr(old[name])
    for a, b in zip(new["views"], old["views"]):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        assert torch.equal(a, b)
    for a, b in zip(new["numpy"], old["numpy"]):
        assert (type(a), a.dtype, a.shape, a.flags.f_contiguous) == (
            type(b),
            b.dtype,
            b.shape,
            b.flags.f_contiguous,
        )
        assert np.array_equal(a, b)
    for a, b in zip(new["rng"], old["rng"]):
        assert np.array_equal(a.standard_normal(5), b.standard_normal(5))
    assert new["cycle"][0] is new
    assert new["same"][0] is new["same"][1]
    new["same"][2][4] = 99  # the views see it: one memory
    assert new["views"][0][0] == 99
    assert new["views"][1][4, 0] == 99


class Limits:
    def __init__(self):
        self.half = torch.finfo(torch.float16)
        self.byte = {"quantised": [torch.iinfo(torch.int8), torch.finfo(torch.bfloat16)]}


def test_what_torch_says_of_a_dtype_is_saved_by_the_dtype():
    state, new = Limits(), Limits()
    new.half, new.byte = None, {}
    load_state(save_state(state), into=new)
    assert type(new.half) is torch.finfo
    assert new.half.max == 65504.0
    byte, brain = new.byte["quantised"]
    assert (type(byte), byte.min, byte.bits) == (torch.iinfo, -128, 8)
    assert (brain.dtype, brain.eps) == ("bfloat16", torch.finfo(torch.bfloat16).eps)


DTYPES = [v for v in vars(torch).values() if isinstance(v, torch.dtype)]


@pytest.mark.parametrize("dtype", sorted(set(map(str, DTYPES))))
def test_tensors_of_every_dtype_come_back_bitwise_or_are_refused(dtype):
    raw = torch.arange(32, dtype=torch.uint8)
    if dtype == "torch.bool":
        raw %= 2
    try:
        tensor = raw.view(getattr(torch, dtype[6:]))
    except (RuntimeError, TypeError):
        return  # half a byte an element
    if dtype.startswith(("torch.qint", "torch.quint")):
        with pytest.raises(StateError, match="cannot be saved safely"):
            save_state([tensor])
        return
    new = load_state(save_state([tensor]))[0]
    assert new.dtype == tensor.dtype
    assert torch.equal(new.view(torch.uint8), tensor.view(torch.uint8))


def test_counterparts_that_are_one_are_not_merged():
    both = []
    new = load_state(save_state({"a": [1], "b": [2]}), into={"a": both, "b": both})
    assert new == {"a": [1], "b": [2]}


def test_what_a_hook_holds_is_saved_with_it():
    class Hook:
        def __init__(self):
            self.count = 0

        def __call__(self, state, bucket):
            raise NotImplementedError

    old, new = Hook(), Hook()
    old.count = 3
    for pair in (
        (old, new),
        (old.__call__, new.__call__),
        (functools.partial(old), functools.partial(new)),
    ):
        new.count = 0
        restore_hook(save_hook(pair[0], None), pair[1], None, False, False)
        assert new.count == 3
    table = functools.partial(used, {"a": 1}), functools.partial(used, {"a": 2})
    restore_hook(save_hook(table[0], None), table[1], None, False, False)
    assert table[1].args == ({"a": 1},)
    with pytest.raises(StateError, match="holds") as caught:
        restore_hook(save_hook(old, None), used, None, False, False)
    assert caught.value.code == "state_class"
