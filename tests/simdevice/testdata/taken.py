"""Hooks of a worker whose product lacks one of its waits at a time: that of the last ``Without``."""

import functools

import hooks
import mutations
import torch
from hooks import is_written, raises  # noqa: F401

taken = ""


class Without:
    """A state: from now on the worker lacks a wait.

    Args:
        name: of the wait, in mutations.py.
    """

    def __init__(self, name):
        global taken
        mutations.begun.clear()
        taken = name
        # What does not wait for a late stream must not be late itself.
        torch.sim.late("default" if name.startswith("fill") else "all")


# Before the worker makes a DeviceMemory, whose methods it keeps.
for name in (*mutations.MUTATIONS_THERE, "fill does not wait for the trainer"):
    mutations.mutate(name, functools.partial(lambda name: name == taken, name))


def doubled(state, bucket):
    mutations.begin()
    return hooks.doubled(state, bucket)
