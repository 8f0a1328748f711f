"""``torch.futures.collect_all`` and ``wait_all`` inside a hook."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Callable, Optional

from .ordered_future import OrderedFuture, devices_of, fail, on_done, value_of
from .scope import scope


class _Whole(OrderedFuture):
    """The future of ``collect_all``."""

    def __init__(self, members: list[Any]) -> None:
        super().__init__(next(filter(None, map(devices_of, members)), ()))
        self._parents = self._members = members

    def _look(self) -> None:
        for member in self._members:
            if isinstance(member, OrderedFuture):
                member._look()


def collect_all(real: Callable[..., Any], futures: Sequence[Any]) -> Any:
    """Return one future of all, which a hook can wait for.

    As torch's it waits for all of them, and fails with the first error.
    """
    if scope.chain is None or not futures:
        return real(futures)
    members = list(futures)
    whole = _Whole(members)
    left = len(members)
    failed: Optional[Exception] = None

    def one(_: Any, member: Any) -> None:
        nonlocal left, failed
        left -= 1
        if failed is None:
            try:
                value_of(member)
            except Exception as error:
                failed = error
        if left > 0:
            return
        if failed is None:
            whole.set_result(members)
        else:
            fail(whole, failed)

    for member in members:
        if isinstance(member, OrderedFuture):
            member._has_callbacks = True
        on_done(member, functools.partial(one, member=member))
    return whole


def wait_all(real: Callable[..., Any], futures: Sequence[Any]) -> Any:
    if scope.chain is None or not futures:
        return real(futures)
    return [future.wait() for future in collect_all(real, futures).wait()]
