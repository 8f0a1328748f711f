"""Futures that complete in an order which is the same on every rank.

On gloo a ``then`` callback runs on whichever of gloo's threads finishes a
collective, when it finishes. A hook that issues a collective in a callback
(PowerSGD) so issues it in another order on each rank: the ranks hang, abort, or
add up the wrong tensors.

Here a hook call gets a ``Chain``. While the hook or one of its callbacks runs,
``Work.get_future()`` gives an ``OrderedFuture`` in place of the real one. Nothing
completes that but ``Chain.advance``, which waits for the real work of the
futures made so far and then runs their callbacks, in the order in which they
were made. The Reducer advances the chains in one fixed order, so every rank issues
every collective in the same order: each chain to its end before it calls the next
hook, which is NCCL's order (ddp.OrderSerial), or all of them level by level, while the
collectives themselves overlap (ddp.OrderOrdered).

A hook that *asks* completes what it asks for there and then: the place in the
program is the same on every rank, and the moment at which a collective is done is
not. So ``wait``, ``value`` and ``done`` of a future that has callbacks, or is one
(``then``, ``collect_all``), wait for what it stands for and answer then; a loop over
``done()`` ends with its first turn. On NCCL such a future is done as soon as the work
is issued. ``add_done_callback`` asks, too: who polls a flag which the callback sets
makes no call that could be seen. ``done()`` of a collective's own future, which
nothing hangs on, runs nothing, and tells the moment's truth. Futures that the hook
made itself are asked likewise: what may complete them is what the call has issued.

A ``then`` callback is not run by time alone: a flag that only such a one sets, and
that is polled without asking a future, is not set while the hook polls.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable, Optional

import torch

from . import give_up
from .grad_mode import GradOff
from .issued import Issued, Issues, cut
from .ordered_future import OrderedFuture, is_done
from .scope import scope


class Chain(Issues):
    """The ordered futures of one hook call. Calling it calls the hook.

    Used by one thread at a time: the Reducer's launcher.

    Args:
        keep_tracebacks: of exceptions that futures failed with, after ``advance``. They
            may keep the bucket alive for ever.
    """

    __slots__ = ("_errors", "_futures", "_keep", "_level", "_tracer")

    def __init__(self, hook: Callable[[Any, Any], Any], keep_tracebacks: bool = False) -> None:
        super().__init__(hook)
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
        """An OrderedFuture of a real future; completed by the next ``advance``.

        Args:
            work: the real future.
            issued: what was noted of its work.
        """
        future = OrderedFuture()
        future._work, future._issued = work, issued
        self._futures.append(future)
        self._tracer = scope.tracer or self._tracer
        return future

    def unfinished(self) -> Optional[Any]:
        """A real future of all that the next ``advance`` would wait for; None: nothing.

        Of the works whose future the hook did not take these are the ones that it has
        let go of: they may still write to the bucket, and nobody else waits for them.
        """
        works = [f._work for f in (*self._level, *self._futures) if f._work is not None]
        works = [work for work in works if not work.done()] + self._unattended()
        # torch's function: collect_all of torch.futures knows of chains.
        return torch._C._collect_all(works) if works else None

    def advance(self) -> bool:
        """Complete, in order, the futures made since the last call.

        Their callbacks run here, and may make the next ones. Errors go to the
        futures.

        Returns:
            Whether there are next ones.

        Raises:
            HookContractError: ``collective``: there are none, and a collective has
                failed unseen.
        """
        self._level.extend(self._futures)
        self._futures.clear()
        if self._level:
            outer, tracer = _enter(self), scope.tracer
            scope.tracer = self._tracer
            try:
                while self._level:
                    self._complete_next()
            finally:
                scope.tracer = tracer
                _leave(outer)
        if not self._keep:
            for error in self._errors:  # whoever waits for the future has taken it
                cut(error)
        if self._futures or self._unattended():
            return True
        self.check()
        return False

    def _complete_next(self) -> None:
        """Complete the level's first future; what is no Exception leaves it, for give_up."""
        future = self._level.popleft()
        try:
            with GradOff():  # for each: a callback may leave it on
                future._complete()
        except BaseException:
            self._level.appendleft(future)
            raise

    def give_up(self) -> Optional[Any]:
        """Complete the futures that no ``advance`` will, without their callbacks.

        Returns:
            A future that is done when they are and their collectives have ended, also those
            that the hook has let go of; None: there were neither.
        """
        futures, unattended = [*self._level, *self._futures], self._unattended()
        self._level.clear()
        self._futures.clear()
        return give_up.give_up(futures, unattended) if futures or unattended else None

    def _unattended(self) -> list[Any]:
        """Real futures, not done, of works that the hook has let go of."""
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
    """Let this thread's code be the chain's hook; what was before, for ``_leave``."""
    outer = scope.chain, scope.issues
    scope.chain = scope.issues = chain
    return outer


def _leave(outer: tuple[Any, Any]) -> None:
    scope.chain, scope.issues = outer
