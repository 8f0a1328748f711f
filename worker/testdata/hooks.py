"""Hooks for what is not a hook of PyTorch's own."""

import os
import threading
import time

import torch
import torch.distributed as dist

import pyhook


def _done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


def other(state, bucket):
    """A result in other memory, of another dtype."""
    return _done(bucket.buffer().to(torch.float64) * 2)


def by_a_thread(state, bucket):
    """A thread completes its future, later than its last collective."""
    future = torch.futures.Future()
    buffer = bucket.buffer()
    threading.Timer(0.2, lambda: future.set_result(buffer * 2)).start()
    return future


def raises(state, bucket):
    raise ValueError("out of cheese")


def none(state, bucket):
    return None


def short(state, bucket):
    return _done(bucket.buffer()[:1].clone())


def fails(state, bucket):
    future = torch.futures.Future()
    future.set_exception(OSError("no cheese"))
    return future


class Counter:
    """A state that counts its steps."""

    def __init__(self, start=0, process_group=None):
        self.steps = start
        self.group = process_group


def count(state, bucket):
    state.steps += 1
    return _done(bucket.buffer().fill_(state.steps))


class Kept:
    """A state with a tensor, which Python saves at each call where file is named."""

    def __init__(self, file=""):
        self.kept = torch.zeros(1)
        self.file = file


def keep(state, bucket):
    state.kept = state.kept + 1
    if state.file:
        with open(state.file, "wb") as f:
            f.write(pyhook.save_state(state))
    return _done(bucket.buffer())


class OwnGroup:
    """A process group of this state's own. Every rank makes its states in the same order."""

    def __init__(self):
        self.group = dist.new_group()


def summed(state, bucket):
    """Waits for the other ranks within the call."""
    dist.all_reduce(bucket.buffer(), group=state.group)
    return _done(bucket.buffer())


def scaled(state, bucket):
    return _done(bucket.buffer() * state["factor"])


def weights(state, bucket):
    """What the parameters hold."""
    return _done(torch.cat([p.detach().flatten() for p in bucket.parameters()]))


def add_to_weights(state, bucket):
    with torch.no_grad():
        for p in bucket.parameters():
            p.add_(1)
    return _done(bucket.buffer())


_seen = []


def same_parameters(state, bucket):
    """1 if the parameters are the objects of the calls before."""
    ids = [id(p) for p in bucket.parameters()]
    same = not _seen or all(i in _seen for i in ids)
    _seen.extend(ids)
    return _done(bucket.buffer().fill_(float(same)))


def mean_for_nccl(state, bucket):
    """all_gather's future holds [tensor of all ranks] on NCCL."""
    out = [torch.empty_like(bucket.buffer()) for _ in range(dist.get_world_size())]
    future = dist.all_gather(out, bucket.buffer(), async_op=True).get_future()
    return future.then(lambda f: f.value()[0].mean(0))


def writes(state, bucket):
    """Writes to a file that nobody closes, and leaves a thread that does, too."""
    global LOG
    LOG = open(os.path.join(os.environ["PYHOOK_TEST_OUT"], "log"), "w")
    LOG.write("a call\n")

    def late():
        time.sleep(4)
        LOG.write("of a thread\n")

    threading.Thread(target=late).start()
    return _done(bucket.buffer())


def drops_work(state, bucket):
    """A collective that no gloo has, and that nobody looks at."""
    dist.all_reduce(torch.ones(2, dtype=torch.int16), async_op=True)
    return _done(bucket.buffer())


def sideways(state, bucket):
    return _done(bucket.buffer())


sideways.pyhook_order = "sideways"
