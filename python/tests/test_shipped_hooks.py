"""Every hook that PyTorch ships and that can run on a CPU, and why the others cannot."""

import pytest
import torch
import torch.distributed as dist

from pyhook import load_hook, testing
from pyhook._loading.load import build_state
from pyhook._meeting.dtype_probe import probe_allreduce_dtypes
from pyhook._meeting.torch_build import torch_version
from pyhook._runtime.bucket import new_bucket


def gloo_can(group, name):
    return probe_allreduce_dtypes(group, [name])[name] is None


@pytest.mark.parametrize("name", ["allreduce", "noop", "batched_powersgd", "powersgd"])
def test_on_one_rank_the_gradients_come_back(name, group, gradients):
    state = build_state(name, {}, group) if "powersgd" in name else group
    bucket = testing.bucket(gradients)
    expected = bucket.buffer().clone()
    result = testing.run(load_hook(name), state, bucket)
    assert torch.equal(result, expected)
    assert [part.shape for part in testing.split(result, gradients)] == [
        gradient.shape for gradient in gradients
    ]


@pytest.mark.parametrize("spec", ["fp16", "bf16", "fp16_wrapper(allreduce)", "fp16_wrapper(noop)"])
def test_half_precision_hooks(spec, group, gradients):
    bucket = testing.bucket(gradients)
    expected = bucket.buffer().clone()
    dtype = "bfloat16" if spec.startswith("bf16") else "float16"
    if "noop" not in spec and not gloo_can(group, dtype):
        with pytest.raises(RuntimeError, match="Invalid scalar type"):
            testing.run(load_hook(spec), group, bucket)
        return
    result = testing.run(load_hook(spec), group, bucket)
    assert result.dtype == torch.float32
    assert torch.allclose(result, expected, rtol=1e-2)


def test_power_sgd_compresses_from_its_start_on(group):
    torch.manual_seed(1)
    full = [torch.randn(16, 12), torch.randn(12)]
    state = build_state(
        "powersgd", {"matrix_approximation_rank": 2, "start_powerSGD_iter": 2}, group
    )
    layout = testing.bucket(full)._layout
    value = layout.tensor.clone()
    ranks = []
    for _ in range(4):
        layout.tensor.copy_(value)
        result = testing.run(load_hook("powersgd"), state, new_bucket(layout))
        matrix, vector = testing.split(result, full)
        ranks.append(int(torch.linalg.matrix_rank(matrix.double(), rtol=1e-5)))
        assert torch.allclose(vector, full[1])
    assert ranks == [12, 12, 2, 2]


def test_post_local_sgd_reduces_by_the_subgroup_later(group, gradients):
    state = build_state("post_localsgd", {"start_localSGD_iter": 1, "subgroup": group}, group)
    for _ in range(3):
        bucket = testing.bucket(gradients)
        expected = bucket.buffer().clone()
        assert torch.equal(testing.run(load_hook("post_localsgd"), state, bucket), expected)
    assert state.iter >= 1


@pytest.mark.parametrize("name", ["quantize_pertensor", "quantize_perchannel"])
def test_quantization_runs_on_gloo_from_torch_2_15_on_and_fails_clearly_before(
    name, group, gradients
):
    # Until 2.14 the hooks read all_gather's future as NCCL gives it (gloo's is a
    # flat list), and torch 1.13 calls .cuda().
    bucket = testing.bucket(gradients)
    expected = bucket.buffer().clone()
    if torch_version() >= (2, 15):
        result = testing.run(load_hook(name), group, bucket)
        assert torch.allclose(result, expected, atol=0.05)
        return
    with pytest.raises((RuntimeError, IndexError, AssertionError)) as caught:
        testing.run(load_hook(name), group, bucket)
    assert str(caught.value)


def test_batched_power_sgd_is_broken_upstream_once_it_starts(group):
    state = build_state("batched_powersgd", {"start_powerSGD_iter": 2}, group)
    layout = testing.bucket([torch.randn(8, 8)])._layout
    for _ in range(2):
        testing.run(load_hook("batched_powersgd"), state, new_bucket(layout))
    with pytest.raises((RuntimeError, AssertionError)):
        testing.run(load_hook("batched_powersgd"), state, new_bucket(layout))


def test_run_brings_a_group_where_there_is_none(gradients):
    assert not dist.is_initialized()
    testing.run(load_hook("allreduce"), None, testing.bucket(gradients))
    assert not dist.is_initialized()


def test_a_hook_of_torch_1_8_runs(group, gradients):
    bucket = testing.bucket(gradients)
    expected = bucket.buffer().clone()
    assert torch.equal(
        testing.run(load_hook("sample_hooks:mean_old_style"), None, bucket), expected
    )
    assert {"get_tensor", "get_index", "[tensor] result"} <= bucket._layout.legacy_names


def test_optimizer_in_a_hook_steps_the_users_parameters(group):
    weight = torch.nn.Parameter(torch.ones(3))
    bucket = testing.bucket([torch.ones(3)], parameters=[weight])

    def hook(state, bucket):
        def step(future):
            with torch.no_grad():
                for parameter in bucket.parameters():
                    parameter.sub_(parameter.grad, alpha=0.5)
            return future.value()[0]

        return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(step)

    testing.run(hook, None, bucket)
    assert weight.tolist() == [0.5, 0.5, 0.5]
