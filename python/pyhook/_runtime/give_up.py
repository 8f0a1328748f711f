"""Futures of a hook call that nobody will complete, since the step is over before they are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from .scope import scope


class GivenUp(Exception):
    """The error of a future whose step was over before its callbacks ran."""


def error() -> GivenUp:
    """The exception for a future that is given up."""
    return GivenUp("the step was over before the callbacks of this future ran")


def give_up(futures: Sequence[Any], others: Sequence[Any] = ()) -> Any:
    """Complete a chain's futures with GivenUp when their collectives have ended.

    Not before: until then gloo may write to the bucket. And not never: torch keeps a future that
    has callbacks, and all that they hold, until it is done.

    Args:
        futures: OrderedFutures, which nothing else completes from now on.
        others: real futures that are to be waited for, too.

    Returns:
        A future that is done when that is so.
    """
    finished = torch.futures.Future()
    works = [future._work for future in futures if future._work is not None] + list(others)
    ended = itertools.count(1)  # its next() is one step, whichever threads call it

    def one(_: Any) -> None:
        if next(ended) == len(works):
            _drop(futures, finished)

    for work in works:
        torch._C.Future.add_done_callback(work, one)
    if not works:
        _drop(futures, finished)
    return finished


def _drop(futures: Sequence[Any], finished: Any) -> None:
    scope.giving_up = True
    try:
        for future in futures:
            future._work, future._parents = None, ()
            if not torch._C.Future.done(future):
                future.set_exception(error())
    finally:
        scope.giving_up = False
    finished.set_result(None)
