"""States and hooks for state_test.go."""

import torch
from sample import done

from pyhook._errors import StateError


class Residuals:
    """Error feedback: what rounding to whole numbers leaves goes into the next step."""

    def __init__(self):
        self.left = {}


def rounding(state, bucket):
    wanted = bucket.buffer() + state.left.get(bucket.index(), 0)
    result = wanted.round()
    state.left[bucket.index()] = wanted - result
    return done(result)


class Counting:
    """Its state is in the hook itself."""

    def __init__(self):
        self.calls = 0

    def __call__(self, state, bucket):
        self.calls += 1
        return done(torch.full_like(bucket.buffer(), self.calls))


def counting():
    return Counting()


class Raising:
    def __init__(self, code):
        self.code = code

    def __reduce_ex__(self, protocol):
        raise NotImplementedError

    def state_dict(self):
        raise StateError(self.code, "what it is")

    def load_state_dict(self, content):
        raise NotImplementedError


def raising(code):
    return Raising(code)


ran = []


def run_this(text):
    ran.append(text)


class Evil:
    def __reduce__(self):
        return run_this, ("it ran",)


def has_run():
    return bool(ran)


def evil():
    state = Residuals()
    state.left["x"] = [Evil()]
    return state
