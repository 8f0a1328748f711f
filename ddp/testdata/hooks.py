"""Hooks that the tests of package ddp run."""

import threading

import torch


def done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


def later(state, bucket):
    """Reduce nothing, on another thread."""
    future = torch.futures.Future()
    threading.Timer(0.01, lambda: future.set_result(bucket.buffer())).start()
    return future


def watches(state, bucket):
    """Check that parameters and gradients stay themselves."""
    if not hasattr(state, "calls"):
        state.calls, state.seen = {}, {}
    index = bucket.index()
    state.calls[index] = state.calls.get(index, 0) + 1
    params, grads, flat = bucket.parameters(), bucket.gradients(), bucket.buffer()
    offset = 0
    for param, grad in zip(params, grads):
        assert isinstance(param, torch.nn.Parameter) and param.requires_grad
        assert param.shape == grad.shape
        assert grad.data_ptr() == flat.data_ptr() + offset * flat.element_size()
        assert param.grad is not None and param.grad.data_ptr() == grad.data_ptr()
        offset += grad.numel()
    ids = [id(param) for param in params]
    assert state.seen.setdefault(index, (ids, params))[0] == ids, "the parameters are other objects"
    assert bucket.is_last() == (index == 2)
    return done(flat)


def first_time(state, bucket):
    """Whether this is bucket 1's first call."""
    if bucket.index() != 1 or state:
        return False
    state.append(1)
    return True


def raises_once(state, bucket):
    if first_time(state, bucket):
        raise ValueError("boom in the hook")
    return done(bucket.buffer())


def fails_once(state, bucket):
    if not first_time(state, bucket):
        return done(bucket.buffer())

    def callback(future):
        raise ValueError("boom in the callback")

    return done(bucket.buffer()).then(callback)


def short_once(state, bucket):
    return done(bucket.buffer()[1:] if first_time(state, bucket) else bucket.buffer())


def none_once(state, bucket):
    return None if first_time(state, bucket) else done(bucket.buffer())


def odd(state, bucket):
    """Return twice the bucket as float64, every second element from the first on."""
    flat = bucket.buffer()
    wide = torch.full((2 * flat.numel() + 1,), -1.0, dtype=torch.float64)
    wide[1::2] = flat.double() * 2
    return done(wide[1::2])
