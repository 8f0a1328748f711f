"""Hooks that the tests of package ddp run."""

import threading

import torch
import torch.distributed as dist


def done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


def later(state, bucket):
    """Reduce nothing, on another thread."""
    future = torch.futures.Future()
    threading.Timer(0.01, lambda: future.set_result(bucket.buffer())).start()
    return future


class Known:
    """A state that is made with the parameters, before any bucket."""

    def __init__(self, parameters):
        self.names = {id(p): name for name, p in parameters.named_parameters()}
        self.layouts = []


def known(state, bucket):
    names = [state.names[id(p)] for p in bucket.parameters()]
    state.layouts.append([bucket.index(), names])
    for name, gradient in zip(names, bucket.gradients()):
        gradient.fill_(int(name[1:]))
    return done(bucket.buffer())


def layouts(state):
    return state.layouts


class ByName:
    """A learning rate of its own for each parameter, by name: the guide's example."""

    def __init__(self, parameters, scales):
        self.scale = {id(p): scales.get(name, 1.0) for name, p in parameters.named_parameters()}


def scaled_by_name(state, bucket):
    for p, gradient in zip(bucket.parameters(), bucket.gradients()):
        gradient.mul_(state.scale[id(p)])
    return done(bucket.buffer())


def checks_identity(state, bucket):
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


def doubles(state, bucket):
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0].mul_(2))


def doubles_by_its_own_future(state, bucket):
    """As doubles, but only a callback completes the future that it returns."""
    mine = torch.futures.Future()
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    work.get_future().then(lambda future: mine.set_result(future.value()[0].mul_(2)))
    return mine


def doubles_at_length(state, bucket):
    """As doubles, with Python between the collective and its end."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    for _ in range(2000):
        bucket.index()
    return work.get_future().then(lambda future: future.value()[0].mul_(2))
