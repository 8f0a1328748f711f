"""Hooks for what the order of calls and callbacks, and unseen collectives, make of them."""

import torch
import torch.distributed as dist


def mean(state, bucket):
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda fut: fut.value()[0] / dist.get_world_size())


def ordered(state, bucket):
    return mean(state, bucket)


ordered.pyhook_order = "ordered"


def sideways(state, bucket):
    return mean(state, bucket)


sideways.pyhook_order = "sideways"


def copied(state, bucket):
    """Bears the name of a hook that is proven, as functools.wraps gives it."""
    return mean(state, bucket)


copied.__module__ = "torch.distributed.algorithms.ddp_comm_hooks.default_hooks"
copied.__name__ = copied.__qualname__ = "allreduce_hook"


def failing():
    """A collective that no gloo has: it fails on gloo's thread."""
    return dist.all_reduce(torch.ones(3, dtype=torch.int16), async_op=True)


def average():
    """What the issue was found with: fails later on torch 1.13 and 2.6, and is right on 2.15."""
    return dist.all_reduce(torch.ones(3), op=dist.ReduceOp.AVG, async_op=True)


def has_average():
    try:
        average().wait()
    except RuntimeError:
        return False
    return True


def first_time(state, bucket):
    """Whether this is the last bucket's first call."""
    if not bucket.is_last() or state:
        return False
    state.append(1)
    return True


def drops_work(state, bucket):
    if first_time(state, bucket):
        failing()
    return mean(None, bucket)


def drops_average(state, bucket):
    if bucket.is_last():
        average()
    return mean(None, bucket)


def keeps_work(state, bucket):
    if first_time(state, bucket):
        state.append(failing())
    return mean(None, bucket)


def reads_no_value(state, bucket):
    if first_time(state, bucket):
        return failing().get_future().then(lambda fut: bucket.buffer())
    return mean(None, bucket)


def drops_future(state, bucket):
    if first_time(state, bucket):
        state.append(failing().get_future())
    return mean(None, bucket)


def drops_in_callback(state, bucket):
    def callback(fut):
        failing()
        return fut.value()

    future = mean(None, bucket)
    return future.then(callback) if first_time(state, bucket) else future


def collects_without_a_look(state, bucket):
    if first_time(state, bucket):
        both = [failing().get_future(), mean(None, bucket)]
        return torch.futures.collect_all(both).then(lambda fut: bucket.buffer())
    return mean(None, bucket)


def handles(state, bucket):
    """Looks at the failure and goes another way: no error."""
    if first_time(state, bucket):
        for attempt in (failing().wait, failing().get_future().wait):
            try:
                attempt()
            except RuntimeError:
                continue
            raise AssertionError("it did not fail")
    return mean(None, bucket)


def returns_failed(state, bucket):
    """The hook's own future fails: its error is the one to tell."""
    return failing().get_future() if first_time(state, bucket) else mean(None, bucket)
