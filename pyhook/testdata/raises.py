"""Hooks that raise pyhook's own exceptions, for errors_test.go."""

from pyhook import GroupError, StateError


def group(state, bucket):
    raise GroupError("timeout", "no rank came")


def state(state, bucket):
    raise StateError("state_rank", "another rank's")
