"""Specs with arguments, what factories are given, and hooks that an object registers."""

import copy
import functools
import gc
import pickle
from typing import Optional

import pytest
import torch
import torch.distributed as dist
from sample_hooks import completed
from torch.nn.parallel import DistributedDataParallel

from pyhook import HookLoadError, Parameters, build_state, capture, load_hook, testing
from pyhook._loading.load import construct_state
from pyhook._loading.spec import Spec, parse
from pyhook._state.file import load_state, save_state


def refused(code, function, *arguments, **keywords):
    with pytest.raises(HookLoadError) as caught:
        function(*arguments, **keywords)
    assert caught.value.code == code
    return str(caught.value)


def spec(target, *arguments, called=True, **keywords):
    return lambda text: Spec(text, target, called, arguments, keywords)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a:b()", spec("a:b")),
        ("a:b(1, 2.5, -3, 'x,)', None,)", spec("a:b", 1, 2.5, -3, "x,)", None)),
        ('a.py:b(rank=2, compression="fp16")', spec("a.py:b", rank=2, compression="fp16")),
        ("a:b(k={'x': [1, (2,)]})", spec("a:b", k={"x": [1, (2,)]})),
        ("a:b(k = True)", spec("a:b", k=True)),
        ("a:b(r'\\d', b\"x\")", spec("a:b", "\\d", b"x")),
        ("dir (1)/a.py:b(2)", spec("dir (1)/a.py:b", 2)),
        ("bob's/a.py:b(2)", spec("bob's/a.py:b", 2)),
        ("f(1_000)", spec("f", 1000)),
    ],
)
def test_literals_are_pythons(text, want):
    assert parse(text) == want(text)


def test_what_is_no_literal_is_a_spec():
    read = parse("f(powersgd, my hooks.py:g(a:b, k=3), also=[noop, (fp16, 1)])")
    inner = read.arguments[1]
    assert (inner.target, inner.arguments[0].target, inner.keywords) == (
        "my hooks.py:g",
        "a:b",
        {"k": 3},
    )
    assert [read.keywords["also"][0].target, read.keywords["also"][1][1]] == ["noop", 1]
    assert parse("f(bob's/a.py:b, 'text')").arguments[1] == "text"
    assert parse("f(2024/a.py:b)").arguments[0].target == "2024/a.py:b"


@pytest.mark.parametrize(
    "text",
    ["f(", "f)", "f(a", "f(a]", "f([1)", "f('a)", "f(a,,b)", "f(k=)", "f(k=1,k=2)", "f(k=1,2)",
     "(a)", "f({'a': b:c})", "f(a)(b)"],
)  # fmt: skip
def test_what_cannot_be_read_is_a_bad_spec(text):
    refused("bad_spec", load_hook, text)


def make(rank, *, compression="none", inner=None):
    def hook(state, bucket):
        return completed(bucket.buffer() * rank)

    hook.made = (rank, compression, inner)
    return hook


def test_factories_get_literals_and_hooks():
    hook = load_hook("test_factories:make(2, compression='fp16', inner=noop)")
    assert hook.made[:2] == (2, "fp16")
    assert hook.made[2] is load_hook("noop")
    assert testing.run(hook, None, testing.bucket([torch.ones(2)])).tolist() == [2, 2]
    assert load_hook("test_factories:make(test_factories:make(3))").made[0].made[0] == 3
    error = refused("bad_arguments", load_hook, "test_factories:make(rank=2, x=1)")
    assert "'x'" in error
    assert "compression" in error
    refused("arity", load_hook, "test_factories:make()")
    with pytest.raises(NameError):  # the factory's own
        load_hook("test_factories:fails()")


def fails():
    raise NameError("of the factory")


class Takes:
    def __init__(self, parameters=None, process_group=3, rest=None, rank=1, rate: float = 1):
        self.parameters, self.process_group, self.rest = parameters, process_group, rest
        self.rank, self.rate = rank, rate


def requires(parameters, subgroup):
    return (parameters, subgroup)


def weights():
    return Parameters(
        [("fc.weight", torch.nn.Parameter(torch.ones(2))), ("", torch.nn.Parameter(torch.ones(1)))]
    )


def test_states_get_the_parameters_where_they_take_them():
    known = weights()
    state = build_state("test_factories:Takes", parameters=known)
    assert state.parameters is known
    assert build_state("test_factories:Takes").parameters is None
    state = build_state("test_factories:Takes(rest=parameters, rank=2.0)", parameters=list(known))
    assert state.rest == known
    assert type(state.rank) is int
    assert requires(*construct_state(requires, None, None, known))[1] is None
    error = refused("bad_arguments", build_state, "test_factories:requires")
    assert "Runtime.Parameters" in error
    assert build_state("test_factories:Takes(rank=2)", {"rest": 1}).rank == 2
    refused("bad_arguments", build_state, "test_factories:Takes(rank=2)", {"rank": 1})
    refused("bad_arguments", build_state, "test_factories:Takes(rest=parameters)")


def test_parameters_have_names():
    known = weights()
    weight, other = known
    assert known["fc.weight"] is weight
    assert known.name_of(other) == "parameter1"
    assert list(known.named_parameters()) == [("fc.weight", weight), ("parameter1", other)]
    with pytest.raises(KeyError, match="not a parameter"):
        known.name_of(torch.nn.Parameter(torch.ones(2)))
    refused("bad_arguments", Parameters, [weight, other], ["w", "w"])
    assert len(list(Parameters([weight, weight], ["a", "b"]).named_parameters())) == 1  # shared
    assert list(known[:1]) == [weight]


def annotated(a: int, b: "int" = 3, c: Optional[int] = None, d: float = 2, e=1, f=True, g=1.5):
    return [a, b, c, d, e, f, g]


def test_whole_floats_become_ints_where_ints_are_meant():
    got = construct_state(annotated, dict.fromkeys("abcdefg", 4.0))
    assert [type(value) for value in got] == [int, int, int, float, int, float, float]
    for name in "abc":
        text = refused("bad_arguments", construct_state, annotated, {"a": 1, name: 2.5})
        assert f"annotated: {name}=2.5 is not a whole number" in text
    for value in (float("inf"), float("nan")):
        refused("bad_arguments", construct_state, annotated, {"a": value})
    got = construct_state(annotated, {"a": 1, "d": 0.5, "e": 0.5})  # e: nothing says int
    assert (got[3], got[4]) == (0.5, 0.5)


def test_pytorchs_own_states_say_which_numbers_are_whole(group):
    state = build_state(
        "powersgd",
        {
            "matrix_approximation_rank": 2.0,
            "start_powerSGD_iter": 10.0,
            "min_compression_rate": 0.5,
            "orthogonalization_epsilon": 1e-8,
        },
        group,
    )
    assert type(state.matrix_approximation_rank) is type(state.start_powerSGD_iter) is int
    assert (state.min_compression_rate, state.orthogonalization_epsilon) == (0.5, 1e-8)
    assert (
        type(build_state("post_localsgd", {"start_localSGD_iter": 5.0}).start_localSGD_iter) is int
    )
    for name in ("matrix_approximation_rank", "start_powerSGD_iter", "random_seed"):
        text = refused("bad_arguments", build_state, "powersgd", {name: 2.5})
        assert f"{name}=2.5 is not a whole number" in text


class Stats:
    """As published: names by parameter, and a hook that it registers itself."""

    def __init__(self, decay=0.5):
        self.decay, self.calls = decay, 0

    def attach(self, ddp):
        assert isinstance(ddp, DistributedDataParallel)
        self.names = {p: name for name, p in ddp.named_parameters()}
        self.module_names = [name for name, _ in ddp.module.named_parameters()]
        self.group = ddp.process_group
        ddp.register_comm_hook(self, Stats.hook)

    @staticmethod
    def hook(state, bucket):
        state.calls += 1
        return completed(bucket.buffer() * state.decay)


def test_an_object_that_registers_a_hook_is_one(group):
    known = weights()
    hook = load_hook("test_factories:Stats(decay=4)", group, known)
    state = hook.state
    assert (state.decay, state.group) == (4, group)
    assert list(state.names.values()) == ["module.fc.weight", "module.parameter1"]
    assert state.module_names == ["fc.weight", "parameter1"]
    assert testing.run(hook, None, testing.bucket([torch.ones(2)])).tolist() == [4, 4]
    assert state.calls == 1
    refused("bad_arguments", hook, 3, None)
    text = refused("not_callable", load_hook, "test_factories:Stats")
    assert "in brackets" in text


def test_capture_takes_objects_and_functions():
    stats = Stats()
    registered = capture.capture(stats, weights())
    assert (registered.hook, registered.state) == (Stats.hook, stats)
    registered = capture.capture(lambda ddp: ddp.register_comm_hook(None, make(3)))
    assert registered.state is None
    refused("not_callable", capture.capture, lambda ddp: None)
    refused("not_callable", capture.capture, 3)
    refused("not_callable", capture.capture, lambda ddp: ddp.register_comm_hook(None, 3))


def test_the_stand_in_refuses_what_would_never_happen():
    known = weights()
    model = capture.Model(known)
    assert list(model.parameters()) == list(known)
    assert model.module.fc.weight is known[0]
    assert [p for _, p in model.module.named_parameters("m")] == list(known)
    assert next(iter(model.module.named_parameters("m")))[0] == "m.fc.weight"
    assert model.state_dict().keys() == {"module.fc.weight", "module.parameter1"}
    for use in (
        lambda: model(torch.ones(2)),
        lambda: model.module(torch.ones(2)),
        lambda: model.register_forward_hook(print),
        lambda: model.module.register_full_backward_hook(print),
    ):
        with pytest.raises(RuntimeError, match="stand-in"):
            use()
    with pytest.raises(AttributeError, match="stand-in for the DDP model has no 'reducer'"):
        model.reducer  # noqa: B018
    assert not hasattr(model, "logger")
    with model.no_sync():
        assert not model.require_backward_grad_sync
    model.register_comm_hook(state=None, hook=make(1))
    with pytest.raises(RuntimeError, match="only be called once"):
        model.register_comm_hook(None, make(1))


@pytest.mark.parametrize("kind", ["ALLREDUCE", "FP16_COMPRESS"])
def test_hooks_in_c_are_the_python_ones(kind, group):
    model = capture.Model([], group)
    model._register_builtin_comm_hook(getattr(dist.BuiltinCommHookType, kind))
    assert model.registered.hook is load_hook({"ALLREDUCE": "allreduce"}.get(kind, "fp16"))


def stock(register, gradient):
    """What stock DDP makes of a gradient with the hook that ``register(ddp)`` registers."""
    module = torch.nn.Linear(3, 1, bias=False)
    model = DistributedDataParallel(module)
    register(model)
    model(gradient.reshape(1, 3)).sum().backward()
    return module.weight.grad.flatten()


def test_stock_ddp_gives_the_same_bits(group):
    gradient = torch.tensor([0.1, -2.5, 3e-5])
    bucket = testing.bucket([gradient.reshape(1, 3)])
    for target, attach in (
        ("Stats(0.3)", Stats(0.3).attach),
        ("in_constructor(ddp)", in_constructor),
    ):
        got = testing.run(load_hook(f"test_factories:{target}", group), None, bucket)
        assert torch.equal(got, stock(attach, gradient))


def in_constructor(ddp_module):
    ddp_module.register_comm_hook(state=Stats(1 / 3), hook=Stats.hook)


def test_ranks_get_states_with_parameters():
    gradients = [[torch.ones(2), torch.ones(3)]] * 2
    results = testing.run_ranks(
        "test_factories:by_id", gradients, "test_factories:ById", buckets=2, steps=2
    )
    assert results[0][0].tolist() == [0, 0, 1, 1, 1]


class ById:
    def __init__(self, parameters):
        self.numbers = {id(p): i for i, p in enumerate(parameters)}


def by_id(state, bucket):
    for p, gradient in zip(bucket.parameters(), bucket.gradients()):
        gradient.fill_(state.numbers[id(p)])
    return completed(bucket.buffer())


def test_parameters_of_the_trainer_are_no_part_of_a_saved_state():
    from pyhook._runtime.parameters import make_parameter

    class State:
        def __init__(self, values):
            trainers = [
                make_parameter(None, (2, 2), "float32"),
                make_parameter(torch.full((2,), values), (2,), "float32", "cpu", {"group": 3}),
            ]
            self.parameters = Parameters(trainers)
            self.first, self.last = trainers
            self.own = torch.nn.Parameter(torch.full((2,), values))

    data = save_state(State(1.0))
    into = State(2.0)
    load_state(data, into=into)
    assert into.own.tolist() == [1, 1]
    assert into.last.tolist() == [2, 2]
    assert into.last.group == 3
    for stranger in (torch.ones(2), make_parameter(None, (3,), "float32")):
        other = State(2.0)
        other.last = stranger
        with pytest.raises(RuntimeError, match="parameter of shape"):
            load_state(data, into=other)


def test_tables_by_parameter_are_right_in_the_next_process():
    """There id(parameter) is another number, and an error feedback would be lost in silence."""
    from pyhook._runtime.parameters import make_parameter

    def process():
        made = [make_parameter(None, (2,), "float32", name=name) for name in ("a", "b", "")]
        return {
            "by id": {id(p): float(i) for i, p in enumerate(made[:2])},
            "by parameter": {p: [i] for i, p in enumerate(made[:2])},
            "of both": [(id(made[0]), made[1])],
        }, made

    state, made = process()
    data = save_state(state)
    with pytest.raises(RuntimeError, match="2 of this name"):
        load_state(data, into=process()[0])
    with pytest.raises(RuntimeError, match=r"state\[0\]: .* without a name"):
        save_state([id(made[2])])
    del state, made
    gc.collect()
    with pytest.raises(RuntimeError, match="0 of this name"):
        load_state(data)
    into, made = process()
    into["by id"] = {}
    load_state(data, into=into)
    a, b = made[:2]
    assert into == {
        "by id": {id(a): 0.0, id(b): 1.0},
        "by parameter": {a: [0], b: [1]},
        "of both": [(id(a), b)],
    }


def test_default_states():
    from pyhook.capture import hook_and_state

    with testing.process_group() as world:
        for name in ("powersgd", "batched_powersgd", "fp16_wrapper(powersgd)"):
            _, state = hook_and_state(load_hook(name), False, world, None)
            assert (type(state).__name__, state.process_group) == ("PowerSGDState", world)
            assert hook_and_state(load_hook(name), True, world, None)[1] is None
        for hook in ("noop", "fp16", "fp16_wrapper(noop)"):
            assert hook_and_state(load_hook(hook), False, world, None)[1] is None
        partial = functools.partial(make(1))
        assert hook_and_state(partial, False, world, None) == (partial, None)
        text = refused(
            "bad_arguments", hook_and_state, load_hook("post_localsgd"), False, world, None
        )
        assert "start_localSGD_iter" in text


def test_copies_and_pickles_of_parameters_are_lists():
    known = weights()
    assert list(copy.copy(known)) == list(known)
    assert isinstance(pickle.loads(pickle.dumps(known)), list)


class ByName:
    """The guide's example."""

    def __init__(self, parameters, scales):
        self.scale = {id(p): scales.get(name, 1.0) for name, p in parameters.named_parameters()}


def scaled_by_name(state, bucket):
    for p, gradient in zip(bucket.parameters(), bucket.gradients()):
        gradient.mul_(state.scale[id(p)] / dist.get_world_size())
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0])


def test_the_guides_example():
    gradients = [[torch.ones(2), torch.ones(3)], [torch.zeros(2), torch.ones(3)]]
    results = testing.run_ranks(
        "test_factories:scaled_by_name",
        gradients,
        "test_factories:ByName",
        state_kwargs={"scales": {"parameter1": 10.0}},
    )
    assert results[0][0].tolist() == results[1][0].tolist() == [0.5, 0.5, 10, 10, 10]
