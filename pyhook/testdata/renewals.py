"""Hooks that hold their process group in different places."""

import collections
import functools
import threading
import time

import torch
import torch.distributed as dist


def summed(group, bucket):
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


def of_state(state, bucket):
    return summed(state, bucket)


class State:
    def __init__(self, process_group):
        self.process_group = process_group


class Slots:
    __slots__ = ("pair",)

    def __init__(self, process_group):
        self.pair = (("group", process_group), 1)


def of_attribute(state, bucket):
    return summed(state.process_group, bucket)


def of_slots(state, bucket):
    return summed(state.pair[0][1], bucket)


def of_closure():
    group = dist.group.WORLD

    def hook(state, bucket):
        return summed(group, bucket)

    return hook


def of_partial():
    return functools.partial(_of_keyword, group=dist.group.WORLD)


def _of_keyword(state, bucket, group):
    return summed(group, bucket)


_group = None
_cache = {}


def of_module():
    global _group
    _group = dist.group.WORLD
    _cache["group"] = _group  # Python's garbage collector knows of no such dict
    return _of_module


def _of_module(state, bucket):
    assert _cache["group"] is _group
    return summed(_group, bucket)


def of_method():
    issue = dist.group.WORLD.allreduce

    def hook(state, bucket):
        work = issue([bucket.buffer()])
        return work.get_future().then(lambda future: future.value()[0])

    return hook


def of_key():
    bytes_by_group = collections.OrderedDict({dist.group.WORLD: 0})

    def hook(state, bucket):
        (group,) = bytes_by_group
        bytes_by_group[group] += 1
        return summed(group, bucket)

    return hook


def blocking(state, bucket):
    dist.all_reduce(bucket.buffer())
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def slow_callback():
    """Have a thread of gloo's sleep in a callback, and want the GIL again."""
    future = dist.all_reduce(torch.ones(1), async_op=True).get_future()
    future.then(lambda future: time.sleep(1))


proceed = threading.Event()


def stuck_callback():
    """Have a thread of gloo's stay in a callback once the group ends: no other rank takes part."""
    future = dist.all_reduce(torch.ones(1), async_op=True).get_future()
    future.then(lambda future: proceed.wait())


def set_proceed():
    proceed.set()


inside = threading.Event()
leave = threading.Event()


def stays(state, bucket):
    group = dist.group.WORLD
    inside.set()
    while not leave.wait(0.01):
        pass
    return summed(group, bucket)


def wait_inside():
    inside.wait()


def set_leave():
    leave.set()


def _generator():
    group = dist.group.WORLD
    yield
    yield group


generator = None


def hold():
    global generator
    generator = _generator()
    next(generator)


def let_go():
    global generator
    generator = None


def threads():
    return sorted(thread.name for thread in threading.enumerate())


def threads_at_rest():
    end = time.monotonic() + 20
    while any("pyhook-retire" in name for name in threads()) and time.monotonic() < end:
        time.sleep(0.01)
    return threads()
