"""NCCL's forms of futures, and gloo's, on real ranks."""

import functools
from unittest.mock import Mock

import form_hooks
import pytest
import torch
import torch.distributed as dist

from pyhook import RankError, load_hook, testing
from pyhook._meeting.torch_build import torch_version
from pyhook._runtime import nccl_futures
from pyhook._runtime.chain import Chain
from pyhook._runtime.scope import scope

MODERN = torch_version() >= (2, 0)

BOTH_ALIKE = {
    "all_reduce": [(3,)],
    "all_reduce_coalesced": [(3,), (2,)],
    "broadcast": [(3,)],
    "reduce": [(3,)],
    "all_to_all_single": [(6,)],
}

# ProcessGroupNCCL.cpp: `collective` completes the future with the vector that each
# function passes for its outputs (its second argument).
NCCL = {
    "all_gather": [(2, 3, 2)],  # allgather: outputFlattened
    "group.allgather": [(2, 3)],
    "group.allgather, lists": [(2, 3)],
    "group.allgather, named": [(2, 3)],
    "barrier": [(1,)],  # barrier: allreduce of a tensor of one element
    "send": [(3,)],  # pointToPoint: the tensors
}
if MODERN:  # gloo of torch 1.13 has none of these
    NCCL.update(
        {
            "all_gather_into_tensor": [(6,)],  # _allgather_base: the output
            "group._allgather_base": [(6,)],
            "all_gather_into_tensor_coalesced": [(6,), (4,)],
            "reduce_scatter": [(3,)],  # reduce_scatter: outputTensors
            "reduce_scatter_tensor": [(3,)],
            "reduce_scatter_tensor_coalesced": [(3,), (3,)],
            "all_to_all": [(3,), (3,)],
        }
    )
NCCL_BY_RANK = {
    "gather": ([(3,), (3,)], [None]),  # elsewhere than on the root an undefined tensor
    "scatter": ([(3,), (3,)], [None]),  # the root's inputs
}

# ProcessGroupGloo.cpp: `returnFutureWithOutput`: the list of the output tensors.
GLOO = {
    "all_gather": [(3, 2), (3, 2)],
    "group.allgather": [(3,), (3,)],
    "barrier": [],
    "scatter": [(3,)],
    "send": "not implemented",
    "reduce_scatter": "not implemented" if MODERN else "does not support",
    "reduce_scatter_tensor": "not implemented" if MODERN else "does not support",
    "all_gather_into_tensor": [(3,), (3,)] if MODERN else "no support",
}
GLOO_BY_RANK = {"gather": ([(3,), (3,)], [])}


@pytest.fixture
def by_rank():
    torch.manual_seed(5)
    return [[torch.randn(9, 7), torch.randn(6)] for _ in range(2)]


def look(by_rank, alike, by_position, **options):
    forms = {name: (form, form) for name, form in {**BOTH_ALIKE, **alike}.items()}
    testing.run_ranks(
        form_hooks.look, by_rank, {"forms": {**forms, **by_position}}, steps=2, **options
    )


def test_a_hook_that_asks_gets_nccls_form_of_every_collective(by_rank):
    look(by_rank, NCCL, NCCL_BY_RANK, nccl_futures=True)


def test_other_hooks_get_gloos_forms_as_the_table_says(by_rank):
    look(by_rank, GLOO, GLOO_BY_RANK)


def test_the_table_names_methods_that_this_torch_has():
    known = {name for name in nccl_futures.FORMS if hasattr(dist.ProcessGroup, name)}
    assert {"allgather", "_allgather_base", "gather", "scatter", "reduce_scatter"} <= known
    assert known if not MODERN else {"allgather_into_tensor_coalesced"} <= known


@pytest.mark.parametrize("hook", ["gathers_in_callbacks", "reduces_by_pieces"])
def test_a_hook_that_is_written_for_nccl_gives_the_mean(by_rank, hook):
    if hook == "reduces_by_pieces" and not MODERN:
        with pytest.raises(RankError, match="does not support _reduce_scatter_base"):
            testing.run_ranks(f"form_hooks:{hook}", by_rank, nccl_futures=True)
        return
    results = testing.run_ranks(f"form_hooks:{hook}", by_rank, steps=2, nccl_futures=True)
    testing.assert_mean(results, by_rank)
    assert torch.equal(results[0][1], results[1][1])


def test_without_asking_it_is_wrong(by_rank):
    with pytest.raises((AssertionError, RankError)):
        gives_the_mean(by_rank, "form_hooks:gathers_in_callbacks")


def gives_the_mean(by_rank, hook, state=None, **tolerance):
    testing.assert_mean(testing.run_ranks(hook, by_rank, state), by_rank, **tolerance)


def test_in_a_chain_the_forms_are_the_same(group, gradients):
    bucket = testing.bucket(gradients)
    expected = bucket.buffer().clone()
    chain = Chain(nccl_futures.NCCLForms(form_hooks.gathers_in_callbacks))
    future = chain(None, bucket)
    while chain.advance():
        pass
    assert torch.allclose(future.value(), expected)
    assert len(chain._futures) == 0


def test_a_collective_that_fails_keeps_its_error(group, gradients):
    with pytest.raises(RuntimeError, match=r"invalid tensor (size|type)"):
        testing.run(form_hooks.fails_late, None, testing.bucket(gradients), nccl_futures=True)


def test_hooks_beside_one_that_asks_are_left_alone(group, gradients):
    def plain(state, bucket):
        work = dist.all_gather([torch.zeros(2)], torch.ones(2), async_op=True)
        future = work.get_future()
        assert future.wait()[0].shape == (2,)
        seen = []
        done = future.then(lambda f: seen.append(scope.nccl_futures))
        done.wait()
        assert seen == [False]
        return form_hooks.done(bucket.buffer())

    testing.run(nccl_futures.NCCLForms(lambda s, b: form_hooks.done(b.buffer())), None,
                testing.bucket(gradients))  # fmt: skip
    testing.run(plain, None, testing.bucket(gradients))
    assert len(nccl_futures._calls) == 0


def quantised(gradients):
    """What 8 bits leave of them, with the scale and zero point of their least and largest."""
    flat = torch.cat([g.reshape(-1) for g in gradients])
    low, high = min(float(flat.min()), 0.0), max(float(flat.max()), 0.0)
    scale = (high - low) / 255
    zero = round(-low / scale)
    return (((flat / scale).round() + zero).clamp(0, 255) - zero) * scale


@pytest.mark.parametrize("name", ["quantization_pertensor_hook", "quantization_perchannel_hook"])
def test_pytorchs_own_quantisation_hooks_give_the_mean_of_what_was_quantised(by_rank, name):
    # Until torch 2.14 they index all_gather's future as NCCL gives it. All 69 elements
    # are one channel.
    results = testing.run_ranks(form_hooks.quantisation, by_rank, {"hook": name}, nccl_futures=True)
    expected = (quantised(by_rank[0]) + quantised(by_rank[1])) / 2
    for result in results:
        assert torch.allclose(result[0], expected, rtol=1e-5, atol=1e-6)
    if torch_version() < (2, 15):
        with pytest.raises((RankError, AssertionError)):
            gives_the_mean(by_rank, form_hooks.quantisation, {"hook": name}, rtol=0.05, atol=0.05)


def test_which_hooks_name_a_collective_of_the_table():
    def inner(state, bucket):
        return form_hooks.gathers_in_callbacks(state, bucket)

    class State:
        def reduce(self, bucket):
            return dist.all_gather_into_tensor(bucket.buffer(), bucket.buffer())

    def by_state(state, bucket):
        return state.reduce(bucket)

    assert nccl_futures.uses_forms(form_hooks.gathers_in_callbacks)
    assert nccl_futures.uses_forms(by_state, State())
    assert not nccl_futures.uses_forms(by_state, None)
    assert nccl_futures.uses_forms(load_hook("quantize_pertensor"))
    assert not nccl_futures.uses_forms(load_hook("allreduce"))
    assert not nccl_futures.uses_forms(load_hook("fp16_wrapper(noop)"))
    assert nccl_futures.uses_forms(functools.partial(Bound().hook))
    assert nccl_futures.uses_forms(Bound())
    assert nccl_futures.uses_forms(load_hook("fp16_wrapper(quantize_pertensor)"))
    assert not nccl_futures.uses_forms(Mock())


class Bound:
    def hook(self, state, bucket):
        return self.gather(bucket.buffer())

    def gather(self, tensor):
        return dist.all_gather([tensor], tensor, async_op=True)

    def __call__(self, state, bucket):
        return self.hook(state, bucket)
