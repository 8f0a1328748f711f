"""Futures that complete in an order which is the same on every rank.

On gloo a ``then`` callback runs on whichever of gloo's threads finishes a collective, when it
finishes. A hook that issues a collective in a callback (PowerSGD) therefore issues it in another
order on each rank: the ranks hang, abort, or add up the wrong tensors.

Here each hook call has a ``Chain``. While the hook or one of its callbacks runs,
``Work.get_future()`` returns an ``OrderedFuture`` in place of the real one. ``Chain.advance``
alone completes it: it waits for the real work of the futures made so far, and then runs their
callbacks in the order in which they were made. The Reducer advances the chains in one fixed
order, so every rank issues every collective in the same order: it advances each chain to its end
before it calls the next hook, which is NCCL's order (ddp.OrderSerial), or advances all of them
level by level, while the collectives overlap (ddp.OrderOrdered).

A hook that *asks* a future completes it there and then: all ranks ask at the same line of the
program, though a collective is done at another moment on each. So ``wait``, ``value`` and
``done`` wait for a future that has callbacks, or that ``then`` or ``collect_all`` made, and then
answer; a loop over ``done()`` ends with its first turn. On NCCL such a future is done as soon as
the work is issued. ``add_done_callback`` asks too: a hook that polls a flag which the callback
sets makes no call that could be noticed. ``done()`` of a collective's own future without
callbacks runs nothing and answers for this moment. Futures that the hook made itself are asked
in the same way: what the call has issued may complete them.

Time alone runs no ``then`` callback: if only such a callback sets a flag, and the hook polls the
flag without asking a future, the flag stays unset.
"""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Callable, Optional

import torch

from . import give_up
from .grad_mode import GradOff
from .issued import Issued, Issues, cut
from .ordered_future import OrderedFuture, is_done
from .scope import scope

if TYPE_CHECKING:
    from .._device.on_stream import OnStream


class Chain(Issues):
    """The ordered futures of one hook call. Calling it calls the hook.

    One thread at a time uses it: the Reducer's launcher.

    Args:
        keep_tracebacks: ``advance`` keeps the tracebacks of exceptions that futures failed with.
            They may keep the bucket alive for ever.
        on_stream: of a bucket on a device. Callbacks and what comes after the call have its stream.
    """

    def __init__(
        self,
        hook: Callable[[Any, Any], Any],
        keep_tracebacks: bool = False,
        on_stream: Optional[OnStream] = None,
    ) -> None:
        super().__init__(hook)
        self._current: Callable[[], AbstractContextManager[Any]]
        self._current = on_stream.current if on_stream else nullcontext
        self.devices = on_stream.devices if on_stream else []  # of the call's futures
        self._keep = keep_tracebacks
        self._tracer: Optional[Callable[[Any], None]] = None  # the call's, for its callbacks
        self._level: deque[OrderedFuture] = deque()  # what advance has still to complete
        self._futures: deque[OrderedFuture] = deque()  # made since it began
        self._errors: list[BaseException] = []  # that its futures failed with

    def __call__(self, state: Any, bucket: Any) -> Any:
        outer = _enter(self)
        try:
            return self._hook(state, bucket)
        finally:
            _leave(outer)

    def ordered(self, work: Any, issued: Optional[Issued] = None) -> OrderedFuture:
        """Return an OrderedFuture of a real future. The next ``advance`` completes it."""
        future = OrderedFuture(self.devices)
        future._work, future._issued = work, issued
        self._futures.append(future)
        self._tracer = scope.tracer or self._tracer
        return future

    def unfinished(self) -> Optional[Any]:
        """Return a real future of all that the next ``advance`` waits for, or None.

        That includes works that the hook dropped without taking their future: they may still
        write to the bucket, and nobody else waits for them.
        """
        works = [f._work for f in (*self._level, *self._futures) if f._work is not None]
        works = [work for work in works if not work.done()] + self._unattended()
        # torch's function: collect_all of torch.futures knows of chains.
        return torch._C._collect_all(works) if works else None

    def advance(self) -> bool:
        """Complete, in order, the futures made since the last call, and run their callbacks.

        Returns:
            Whether the callbacks have made further ones.

        Raises:
            HookContractError: ``collective``: they have not, and a collective failed unseen.
        """
        self._level.extend(self._futures)
        self._futures.clear()
        if self._level:
            outer, tracer = _enter(self), scope.tracer
            scope.tracer = self._tracer
            try:
                with self._current():
                    while self._level:
                        self._complete_next()
            finally:
                scope.tracer = tracer
                _leave(outer)
        if not self._keep:
            for error in self._errors:  # whoever waits for the future has it by now
                cut(error)
        if self._futures or self._unattended():
            return True
        self._order()
        self.check()
        return False

    def _complete_next(self) -> None:
        """Complete the level's first future. An exit or interrupt leaves it to ``give_up``."""
        future = self._level.popleft()
        try:
            with GradOff():  # for each: a callback may leave it on
                future._complete()
        except BaseException:
            self._level.appendleft(future)
            raise

    def give_up(self) -> Optional[Any]:
        """Complete the futures that no ``advance`` will complete, without their callbacks.

        Returns:
            A future that is done when they are, and all collectives of the call have ended; None
            if there are neither.
        """
        self._order()
        futures, unattended = [*self._level, *self._futures], self._unattended()
        self._level.clear()
        self._futures.clear()
        return give_up.give_up(futures, unattended) if futures or unattended else None

    def _order(self) -> None:
        """On a device, have the stream wait for all collectives of the call."""
        if self.devices:
            with self._current():
                self.order()

    def _unattended(self) -> list[Any]:
        """Return the real futures, not done, of works that the hook dropped."""
        if self._issues is None:
            return []
        return [one.future for one in self.unseen() if one.dropped() and not one.future.done()]

    def complete_until(self, future: Any) -> None:
        """Complete, in order, as many futures as it takes until ``future`` is done."""
        while not is_done(future):
            pending = self._level or self._futures
            if not pending:
                return  # something else completes it: a thread of the hook's
            pending.popleft()._complete()


def _enter(chain: Chain) -> tuple[Any, Any]:
    """Make this thread's code the chain's hook. Return what was before, for ``_leave``."""
    outer = scope.chain, scope.issues
    scope.chain = scope.issues = chain
    return outer


def _leave(outer: tuple[Any, Any]) -> None:
    scope.chain, scope.issues = outer
