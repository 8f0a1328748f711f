"""Autograd is off in hooks, as inside backward(), and complex gradients are real buckets'."""

import pytest
import torch

from pyhook import testing
from pyhook._errors import HookContractError
from pyhook._loading.load import load_hook
from pyhook._runtime.bucket import new_bucket
from pyhook._runtime.bucket_layout import BucketLayout
from pyhook._runtime.complex_gradients import check_complex, complex_refusal
from pyhook._runtime.sparse import run_sparse_hook, sparse_layout


def done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


def test_autograd_is_off_in_a_tested_hook_and_back_after_it():
    modes = []

    def hook(state, bucket):
        modes.append(torch.is_grad_enabled())
        torch.set_grad_enabled(True)
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients()):
            with torch.no_grad():
                parameter.add_(gradient, alpha=-0.5)
        return done(bucket.buffer()).then(lambda future: future.value())

    weight = torch.ones(3)
    bucket = testing.bucket([torch.ones(3)], parameters=[weight])
    for _ in range(2):
        assert testing.run(hook, None, bucket).tolist() == [1, 1, 1]
        assert torch.is_grad_enabled()
    assert modes == [False, False]
    assert weight.tolist() == [0, 0, 0]


def test_a_weight_can_be_stepped_in_a_tested_hook():
    def hook(state, bucket):
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients()):
            parameter.add_(gradient, alpha=-0.5)
        return done(bucket.buffer())

    weight = torch.ones(3)
    testing.run(hook, None, testing.bucket([torch.ones(3)], parameters=[weight]))
    assert weight.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("raises", [False, True])
def test_a_buffer_that_came_to_require_grad_does_not_in_the_next_call(raises):
    seen = []

    def hook(state, bucket):
        seen.append(bucket.buffer().requires_grad)
        with torch.enable_grad():
            bucket.buffer().mul_(bucket.parameters()[0].norm())
        if raises:
            raise KeyError("after it")
        return done(bucket.buffer())

    bucket = testing.bucket([torch.ones(2)], parameters=[torch.tensor([0.6, 0.8])])
    for _ in range(3):
        if raises:
            with pytest.raises(KeyError):
                testing.run(hook, None, bucket)
        else:
            assert not testing.run(hook, None, bucket).requires_grad
    assert seen == [False, False, False]


def test_autograd_is_off_in_a_hook_of_a_sparse_bucket():
    modes = []

    def hook(state, bucket):
        modes.append(torch.is_grad_enabled())
        torch.set_grad_enabled(True)
        return done(bucket.buffer())

    indices, values = torch.tensor([[0, 2]]), torch.ones(2, 3)
    layout = sparse_layout(indices, values, (4, 3), 0, 1, torch.zeros(4, 3))
    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            run_sparse_hook(hook, None, layout)
            assert torch.is_grad_enabled() is mode
    assert modes == [False, False]


def test_a_complex_parameter_has_a_complex_grad_over_a_real_bucket():
    weight = torch.zeros(2, 2, dtype=torch.complex64)
    layout = BucketLayout(torch.arange(8.0), 0, 1, [0], [8], [(2, 2, 2)], params=[weight])
    (parameter,) = new_bucket(layout).parameters()
    assert parameter.grad.dtype == torch.complex64
    assert parameter.grad.tolist() == [[0 + 1j, 2 + 3j], [4 + 5j, 6 + 7j]]
    assert parameter.grad.data_ptr() == layout.tensor.data_ptr()
    (gradient,) = new_bucket(layout).gradients()
    assert gradient.shape == (2, 2, 2)
    assert gradient.dtype == torch.float32


def test_what_this_torchs_ddp_does_with_complex_parameters_is_known():
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    refusal = complex_refusal()
    if (major, minor) >= (2, 14):
        assert refusal is None
    elif (major, minor) <= (2, 6):
        assert "cannot reduce complex parameters" in refusal


@pytest.mark.parametrize("spec", ["fp16", "fp16_wrapper(allreduce)"])
def test_hooks_that_cast_complex_buckets_to_real_are_refused(spec):
    with pytest.raises(HookContractError, match="imaginary"):
        check_complex(load_hook(spec))
    check_complex(load_hook("allreduce"))
