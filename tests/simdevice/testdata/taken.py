"""Hooks of a worker whose product lacks what PYHOOK_SIM_TAKEN names."""

import os

import hooks
import mutations
from hooks import averaged, raises  # noqa: F401

mutations.mutate(os.environ["PYHOOK_SIM_TAKEN"])


def doubled(state, bucket):
    mutations.begin()
    return hooks.doubled(state, bucket)
