"""A state whose class is another file's."""

from made import Own


def make():
    return Own()
