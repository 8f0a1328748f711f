"""Sparse buckets."""

import pytest
import torch
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

from pyhook._errors import HookContractError
from pyhook._runtime.chain import Chain
from pyhook._runtime.sparse import run_sparse_hook, sparse_layout, sparse_parts


def layout_of(rows, shape=(5, 2)):
    indices = torch.tensor([rows])
    values = torch.arange(2.0 * len(rows)).view(len(rows), 2)
    return sparse_layout(indices, values, shape, 0, 1, torch.nn.Parameter(torch.zeros(shape)))


def done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


def test_the_buffer_is_the_gradient_itself():
    indices, values = torch.tensor([[3, 1, 3]]), torch.ones(3, 2)
    parameter = torch.nn.Parameter(torch.zeros(5, 2))
    layout = sparse_layout(indices, values, (5, 2), 1, 2, parameter)
    assert layout.tensor._values().data_ptr() == values.data_ptr()
    assert layout.tensor._indices().data_ptr() == indices.data_ptr()
    assert layout.is_sparse
    assert layout.parameters() == [parameter]
    assert parameter.grad is layout.tensor


def test_a_result_is_coalesced_and_of_the_buckets_dtype():
    layout = layout_of([3, 1, 3])
    indices, values = sparse_parts(layout.tensor.double(), layout)
    assert indices.tolist() == [[1, 3]]
    assert values.tolist() == [[2, 3], [4, 6]]
    assert values.dtype is torch.float32


def test_a_result_shares_no_memory_with_the_gradient():
    layout = layout_of([3])  # one row counts as coalesced
    _, values = sparse_parts(layout.tensor, layout)
    layout.tensor._values().fill_(7)
    assert values.tolist() == [[0, 1]]


def test_a_result_may_have_no_rows_in_any_sparse_dimensions():
    layout = layout_of([3])
    empty = torch.sparse_coo_tensor(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0), (5, 2))
    indices, values = sparse_parts(empty, layout)
    assert indices.shape == (1, 0)
    assert values.shape == (0, 2)


def test_results_that_are_none_are_refused():
    layout = layout_of([3, 1])
    for result, code in (
        (layout.tensor.to_dense(), "sparse"),
        (layout.tensor.to_dense().to_sparse(), "sparse"),
        (layout.tensor * 1j, "complex"),
        (None, "none_value"),
    ):
        with pytest.raises(HookContractError) as caught:
            sparse_parts(result, layout)
        assert caught.value.code == code


def test_a_real_result_for_a_complex_sparse_gradient_is_refused():
    values = torch.ones(2, 2, dtype=torch.complex64)
    layout = sparse_layout(torch.tensor([[3, 1]]), values, (5, 2), 0, 1, torch.zeros(5, 2))
    with pytest.raises(HookContractError, match="imaginary") as caught:
        sparse_parts(torch.sparse_coo_tensor([[3, 1]], torch.ones(2, 2), (5, 2)), layout)
    assert caught.value.code == "complex"


def test_hooks_that_leave_sparse_gradients_alone_are_refused():
    layout = layout_of([3])
    hook = powerSGD_hook.powerSGD_hook
    for refused in (
        hook,
        Chain(hook),
        powerSGD_hook.batched_powerSGD_hook,
        default_hooks.fp16_compress_wrapper(hook),
        default_hooks.fp16_compress_wrapper(default_hooks.fp16_compress_wrapper(hook)),
    ):
        with pytest.raises(HookContractError, match="does not reduce sparse gradients") as caught:
            run_sparse_hook(refused, None, layout)
        assert caught.value.code == "sparse"

    def around(state, bucket):  # a hook of a user's own may call PowerSGD for the others
        return done(bucket.buffer()) if bucket.buffer().is_sparse else hook(state, bucket)

    assert run_sparse_hook(around, None, layout).value() is layout.tensor
