"""Drop the last reference to a process group."""

from __future__ import annotations

import contextlib
from typing import Any


def drop(groups: list[Any], index: int) -> None:
    """Remove a group from a list that has the last reference to it, which ends the group.

    Its destructor waits for the backend's threads, and those may wait for the GIL, to call a
    future's callback. torch 2.6 holds the GIL in ``~ProcessGroup`` and not in ``~ProcessGroupGloo``
    (``intrusive_ptr_no_gil_destructor_class_`` in torch/csrc/distributed/c10d/init.cpp); so the
    group's backends outlive it here. In torch 1.13 they are one object.
    """
    backends = _backends(groups[index])
    del groups[index]
    backends.clear()


def _backends(group: Any) -> list[Any]:
    found = []
    for device in getattr(group, "_device_types", ()):
        with contextlib.suppress(Exception):  # it has none for that device
            found.append(group._get_backend(device))
    return found
