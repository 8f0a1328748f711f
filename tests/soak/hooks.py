"""The hooks of the soak: one that fails in each way."""

import threading

import torch


def done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


def raises(state, bucket):
    raise ValueError("on purpose")


def short(state, bucket):
    return done(bucket.buffer()[1:])


def none(state, bucket):
    return None


def fails_later(state, bucket):
    return done(bucket.buffer()).then(lambda future: 1 / 0)


def doubled(state, bucket):
    return done(bucket.buffer() * 2)


def pending(state, bucket):
    """Done on another thread, after the hook has returned."""
    future = torch.futures.Future()
    value = bucket.buffer()
    threading.Thread(target=lambda: future.set_result(value)).start()
    return future


def resizes(state, bucket):
    """Changes its buffer in place, so that the next call needs a new one."""
    return done(bucket.buffer().resize_(2))
