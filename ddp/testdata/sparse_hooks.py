"""Hooks for sparse buckets."""

import torch
import torch.distributed as dist
from hooks import done
from torch.distributed.algorithms.ddp_comm_hooks import debugging_hooks, powerSGD_hook


def average(state, bucket):
    """The hook guide's."""
    tensor = bucket.buffer()
    tensor.div_(dist.get_world_size())
    future = dist.all_reduce(tensor, async_op=True).get_future()
    return future.then(lambda fut: fut.value()[0])


def powersgd_but_sparse(state, bucket):
    """The hook guide's."""
    inner = average if bucket.buffer().is_sparse else powerSGD_hook.powerSGD_hook
    return inner(state, bucket)


def sees(state, bucket):
    """Note what a sparse bucket is, and check it; reduce nothing."""
    grad = bucket.buffer()
    (parameter,) = bucket.parameters()
    if grad.is_sparse:
        assert grad is bucket.buffer() and bucket.gradients() == []
        assert parameter.grad is grad and parameter.shape == grad.shape
        assert not grad.requires_grad and type(grad) is torch.Tensor
        state.append(
            (
                bucket.index(),
                bucket.is_last(),
                tuple(grad.shape),
                grad._values().data_ptr(),
                grad._indices().data_ptr(),
            )
        )
    return done(grad)


def _sparse_only(make):
    return lambda state, bucket: done(make(bucket) if bucket.buffer().is_sparse else bucket.buffer())


gives_dense = _sparse_only(lambda bucket: bucket.buffer().to_dense())
gives_rows = _sparse_only(lambda bucket: bucket.buffer().to_dense().to_sparse_csr())
gives_other_shape = _sparse_only(
    lambda bucket: torch.sparse_coo_tensor([[0]], torch.ones(1, 3), (6, 3))
)
gives_two_dims = _sparse_only(lambda bucket: bucket.buffer().to_dense().to_sparse())
gives_complex = _sparse_only(lambda bucket: bucket.buffer() * 1j)
gives_none_value = _sparse_only(lambda bucket: None)
gives_double = _sparse_only(lambda bucket: bucket.buffer().to(torch.float64) * 2)
gives_meta = _sparse_only(lambda bucket: torch.empty(6, 2, device="meta"))


def returns_none(state, bucket):
    return None if bucket.buffer().is_sparse else done(bucket.buffer())


def raises(state, bucket):
    if bucket.buffer().is_sparse:
        raise ValueError("boom")
    return done(bucket.buffer())


def no_such_operation(state, bucket):
    return done(bucket.buffer().resize_(3) if bucket.buffer().is_sparse else bucket.buffer())


def fails_later(state, bucket):
    def callback(future):
        future.value().resize_(3)

    return done(bucket.buffer()).then(callback) if bucket.buffer().is_sparse else done(bucket.buffer())


def by_thread(state, bucket):
    """Double a gradient, on another thread."""
    import threading

    future = torch.futures.Future()
    threading.Timer(0.01, lambda: future.set_result(bucket.buffer() * 2)).start()
    return future


def in_place(state, bucket):
    bucket.buffer().mul_(2)
    return debugging_hooks.noop_hook(state, bucket)
