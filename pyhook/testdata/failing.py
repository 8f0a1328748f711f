"""A hook that fails as its bucket asks for: see failures_test.go."""

import torch
from faults import failed, throw
from sample import done


def sometimes(state, bucket):
    buffer = bucket.buffer()
    number, kind, _ = map(int, buffer.tolist())
    if kind == 1:
        raise ValueError(f"boom {number} in the call")
    if kind == 2:
        return failed(ValueError(f"boom {number} in the future"))
    if kind == 3:
        return done(torch.ones(1))
    if kind == 4:
        return None
    if kind == 5:
        boom = ValueError(f"boom {number} in then")
        return done(buffer).then(lambda _: throw(boom))
    if kind == 6:
        return done(Text(f"call {number}'s text"))
    return done(buffer * 2)


class Text:
    def __init__(self, text):
        type(self).__qualname__ = text
