"""Hooks that look at autograd's mode, and such as would record a graph."""

import torch
import torch.distributed as dist
from sample import done

modes = []
"""(where, whether autograd was on there)"""


def _note(where):
    modes.append((where, torch.is_grad_enabled()))


def taken():
    out = [list(mode) for mode in modes]
    modes.clear()
    return out


def notes(state, bucket):
    """Notes the mode in its body and in two callbacks, one of which leaves it on."""
    _note("body")
    buffer = bucket.buffer()

    def first(future):
        _note("callback")
        torch.set_grad_enabled(True)
        return dist.all_reduce(torch.ones(1), async_op=True).get_future().wait()

    def second(future):
        _note("second callback")
        return buffer

    work = dist.all_reduce(torch.ones(1), async_op=True)
    return work.get_future().then(first).then(second)


def notes_and_leaves_on(state, bucket):
    """Done at return."""
    _note("body")
    torch.set_grad_enabled(True)
    return done(bucket.buffer())


def raises_with_it_on(state, bucket):
    _note("body")
    torch.set_grad_enabled(True)
    raise ValueError("after it was turned on")


def calls_go(state, bucket):
    """A Go function that calls another hook, which finds and leaves it off."""
    _note("before")
    state["inner"]()
    _note("after")
    return done(bucket.buffer())


def set_mode(on):
    was = torch.is_grad_enabled()
    torch.set_grad_enabled(on)
    return was


def updates(state, bucket):
    for parameter, gradient in zip(bucket.parameters(), bucket.gradients()):
        parameter.add_(gradient, alpha=-0.5)
    return done(bucket.buffer())


graphs = []
"""By call: whether the buffer required grad as the hook was called."""


def scales(state, bucket):
    """Scales the gradient by a parameter's norm."""
    graphs.append(bucket.buffer().requires_grad)
    return done(bucket.buffer().mul_(bucket.parameters()[0].norm()))


def scales_recording(state, bucket):
    """The same with autograd on: the buffer comes to require grad."""
    graphs.append(bucket.buffer().requires_grad)
    with torch.enable_grad():
        return done(bucket.buffer().mul_(bucket.parameters()[0].norm()))


def scales_recording_later(state, bucket):
    """On the thread that completes its future."""
    graphs.append(bucket.buffer().requires_grad)
    buffer, norm = bucket.buffer(), bucket.parameters()[0]

    def then(future):
        with torch.enable_grad():
            return buffer.mul_(norm.norm())

    return dist.all_reduce(torch.ones(1), async_op=True).get_future().then(then)


def graphs_taken():
    out = list(graphs)
    graphs.clear()
    return out
