"""Completes the futures of a hook call whose step is over before they are done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .issued import when_all_done
from .scope import scope


class GivenUp(Exception):
    """The error of a future whose step was over before its callbacks ran."""

    def __init__(self) -> None:
        super().__init__("the step was over before the callbacks of this future ran")


def give_up(futures: Sequence[Any], others: Sequence[Any] = ()) -> Any:
    """Complete a chain's futures with GivenUp when their collectives have ended.

    Until then gloo may write to the bucket. They must complete: torch keeps a future that has
    callbacks, and all that those hold, until it is done. The callbacks do nothing but pass GivenUp
    on: they might issue a collective, and the other ranks may issue another one next.

    Args:
        futures: OrderedFutures, which nothing else completes from now on.
        others: real futures to wait for, too.

    Returns:
        A future that is done when that is so.
    """
    finished = torch.futures.Future()

    def drop() -> None:
        scope.giving_up = True
        try:
            for future in futures:
                future._work, future._parents = None, ()
                if not torch._C.Future.done(future):
                    future.set_exception(GivenUp())
        finally:
            scope.giving_up = False
        finished.set_result(None)

    works = [future._work for future in futures if future._work is not None]
    when_all_done([*works, *others], drop)
    return finished
