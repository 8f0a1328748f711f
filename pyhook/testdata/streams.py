"""A stream that only notes what is done on it: a GPU's needs a GPU."""

import contextlib

import torch
from pyhook._device.on_stream import OnStream

notes = []
"""In order: "enter" and "leave" of the stream, and what was done in between or outside."""


@contextlib.contextmanager
def current():
    notes.append("enter")
    try:
        yield
    finally:
        notes.append("leave")


def make():
    return OnStream(current, torch.device("cpu"))


def taken():
    """The notes, which are then forgotten."""
    result = list(notes)
    notes.clear()
    return result


class Noting(torch.futures.Future):
    """Notes when it is waited for; a GPU's future has the stream wait then."""

    def wait(self):
        notes.append("wait")
        return super().wait()


def noted(value):
    future = Noting()
    future.set_result(value)
    return future


def at_once(state, bucket):
    notes.append("hook")
    return noted(bucket.buffer())


def doubled(state, bucket):
    notes.append("hook")
    return noted(bucket.buffer() * 2)


waiting = []


def later(state, bucket):
    notes.append("hook")
    waiting.append((Noting(), bucket))
    return waiting[-1][0]


def finish():
    future, bucket = waiting.pop()
    future.set_result(bucket.buffer() * 3)


def every_second_value(state, bucket):
    notes.append("hook")
    n = bucket.buffer().numel()
    return noted(torch.arange(2.0 * n)[::2])


def raises(state, bucket):
    notes.append("hook")
    raise ValueError("on the stream")


def fails(state, bucket):
    notes.append("hook")
    future = Noting()
    future.set_exception(ValueError("later"))
    return future
