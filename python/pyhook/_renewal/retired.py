"""What is in the place of a process group from a step that failed until the group is renewed."""

from __future__ import annotations

from typing import Any, NoReturn

import torch.distributed as dist

from .._errors import OutOfStepError
from .holders import StandIn


class RetiredGroup(StandIn):
    """Any use of it is an error."""

    __slots__ = ("_name",)  # with a slot, Python's garbage collector knows of it: see holders

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<process group {self._name!r}, retired>"

    def __getattr__(self, name: str) -> NoReturn:
        raise OutOfStepError(
            "out_of_step",
            "this process group is retired: a step failed on some rank, and the groups were not "
            "made anew since",
            "call Recover on every rank (ddp.Reducer.Recover; ddp.Retry does)",
        )

    def use(self, *_: object) -> NoReturn:
        """Raise the error."""
        self.__getattr__("")

    __bool__ = __eq__ = __ne__ = __hash__ = use


def set_default(group: Any) -> None:
    """Make a group, a RetiredGroup or None torch's default one."""
    c10d = dist.distributed_c10d
    if hasattr(c10d, "_world") and hasattr(type(c10d._world), "default_pg"):
        c10d._world.default_pg = group
    else:  # torch 1.13
        c10d._update_default_pg(group)


def default_is_retired() -> bool:
    """Whether torch's default group is a RetiredGroup."""
    return isinstance(dist.group.WORLD, RetiredGroup)
