"""Hooks that work."""

import threading

import torch
import torch.distributed as dist


def done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


def identity(state, bucket):
    return done(bucket.buffer())


def doubled(state, bucket):
    return done(bucket.buffer() * 2)


def doubled_in_place(state, bucket):
    return done(bucket.buffer().mul_(2))


def later(state, bucket):
    future = torch.futures.Future()
    threading.Timer(0.02, lambda: future.set_result(bucket.buffer())).start()
    return future


held = []
"""The futures of `pending`, which finish() completes."""


def pending(state, bucket):
    future = torch.futures.Future()
    held.append((future, bucket))
    return future


def finish(double=False):
    """Completes them on Python threads."""

    def complete(future, bucket):
        future.set_result(bucket.buffer() * 2 if double else bucket.buffer())

    threads = [threading.Thread(target=complete, args=item) for item in held]
    held.clear()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(threads)


def lost(state, bucket):
    """A future that nobody can complete any more."""
    return torch.futures.Future()


def reduced(state, bucket):
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


def scaled_in_place(state, bucket):
    future = torch.futures.Future()
    future.set_result(bucket.buffer().mul_(state["factor"]))
    return future


local = threading.local()
counts = [0]


def counts_callbacks(state, bucket):
    """Its callback counts in a thread-local, if it runs on a thread of gloo."""
    caller = threading.get_ident()

    def then(future):
        if threading.get_ident() != caller:
            local.n = getattr(local, "n", 0) + 1
            counts.append(local.n)
        return future.value()[0]

    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(then)


def most_callbacks():
    """How many a thread has counted without losing count, and how many there were."""
    return [max(counts), len(counts) - 1]
