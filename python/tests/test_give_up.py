"""Chains that are closed before their futures are done, and what failed callbacks keep."""

import gc
import threading
import time
import weakref

import pytest
import torch
import torch.distributed as dist

from pyhook._runtime import patches
from pyhook._runtime.chain import Chain
from pyhook._runtime.give_up import GivenUp
from pyhook._runtime.ordered_future import OrderedFuture


class Ended(BaseException):
    pass


@pytest.fixture(autouse=True)
def without_the_collector(group):
    """What torch's futures hold, Python's collector does not find."""
    patches.install()
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def call(callback, ends=False):
    """A chain, its future, and an event that is set when the tensor that its hook reduces is gone.

    Not a weak reference: gloo's thread may be the last to let go of the tensor, and who asks a weak
    reference then gets an object whose memory torch is about to free.
    """
    tensor = torch.ones(3)
    gone = threading.Event()
    weakref.finalize(tensor, gone.set)

    def hook(state, bucket):
        future = dist.all_reduce(tensor, async_op=True).get_future().then(callback)
        if ends:
            raise Ended
        return future

    chain = Chain(hook)
    future = None
    try:
        future = chain(None, None)
    except Ended:
        assert ends
    return chain, future, gone


def waited_for(future, seconds=10):
    end = time.monotonic() + seconds
    while not torch._C.Future.done(future) and time.monotonic() < end:
        time.sleep(0.001)
    return torch._C.Future.done(future)


def test_a_chain_that_is_given_up_completes_its_futures_without_their_callbacks():
    ran = []
    chain, future, gone = call(ran.append)
    grandchild = future.then(ran.append)
    finished = chain.give_up()
    assert waited_for(finished)
    for one in (future, grandchild):
        with pytest.raises(GivenUp):
            torch._C.Future.value(one)
    assert not ran
    assert chain.advance() is False
    del chain, future, grandchild, finished, one
    gc.collect()  # an exception that was raised again
    assert gone.wait(60)


def test_a_chain_that_has_nothing_left_has_nothing_to_give_up():
    chain, future, _ = call(lambda f: f.value()[0])
    assert chain.advance() is False
    assert chain.give_up() is None
    assert future.value().tolist() == [1, 1, 1]


def test_a_chain_of_a_call_that_was_ended_can_be_given_up():
    chain, _, gone = call(lambda f: f.value(), ends=True)
    assert waited_for(chain.give_up())
    del chain
    gc.collect()
    assert gone.wait(60)


def test_what_an_exception_left_of_a_level_is_given_up(monkeypatch):
    chain, future, _ = call(lambda f: f.value())

    def ends(self):
        raise Ended

    with monkeypatch.context() as patched:
        patched.setattr(OrderedFuture, "_complete", ends)
        with pytest.raises(Ended):
            chain.advance()
    assert waited_for(chain.give_up())
    assert torch._C.Future.done(future)


@pytest.mark.parametrize("error", [ValueError, Ended])
def test_a_failed_callback_keeps_nothing_alive(error):
    def fails(future):
        raise error

    chain, future, gone = call(fails)
    chain.advance()
    assert torch._C.Future.done(future)
    del chain, future
    assert gone.wait(60)
