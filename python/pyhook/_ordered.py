"""Futures that complete in an order which is the same on every rank.

On gloo a ``then`` callback runs on whichever of gloo's threads finishes a
collective, when it finishes. A hook that issues a collective in a callback
(PowerSGD) so issues it in another order on each rank: the ranks hang, abort, or
add up the wrong tensors.

Here a hook call gets a ``Chain``. While the hook or one of its callbacks runs,
``Work.get_future()`` gives an ``OrderedFuture`` in place of the real one. Nothing
completes that but ``Chain.advance``, which waits for the real work of the
futures made so far and then runs their callbacks, in the order in which they
were made. The Reducer advances the chains of all buckets in one fixed order, so
every rank issues every collective in the same order, while the collectives
themselves overlap.

A hook that *waits* (``future.wait()``, ``work.wait()``, ``torch.futures.wait_all``),
in its body or in a callback, completes what it waits for there and then: the
place in the program is the same on every rank too.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Sequence
from typing import Any, Callable, Optional

from . import _torch  # noqa: F401  (first: a clear error when torch is missing)

# isort: split
import torch
import torch.distributed as dist

from . import _give_up

# Nothing is half done where these wait: pyhook.Interrupted may come (cbridge/interrupt.py).
_INTERRUPTIBLE: tuple[str, ...] = ()

# .chain: the Chain whose hook or callback runs on this thread
# .observer: what the hook that runs on this thread tells of its collectives
_scope = threading.local()


def _current() -> Optional[Chain]:
    return getattr(_scope, "chain", None)


class Chain:
    """The ordered futures of one hook call. Calling it calls the hook.

    Used by one thread at a time: the Reducer's launcher.
    """

    __slots__ = ("_futures", "_hook", "_observer")

    def __init__(self, hook: Callable[[Any, Any], Any]) -> None:
        self._hook = hook
        self._observer: Optional[Callable[[Any], None]] = None  # the call's, for its callbacks
        self._futures: list[OrderedFuture] = []  # made since the last advance

    def __call__(self, state: Any, bucket: Any) -> Any:
        outer = _current()
        _scope.chain = self
        try:
            return self._hook(state, bucket)
        finally:
            _scope.chain = outer

    def follow(self, work: Any) -> OrderedFuture:
        """An OrderedFuture of a real future; completed by the next ``advance``."""
        future = OrderedFuture()
        future._work = work
        self._futures.append(future)
        self._observer = _observer() or self._observer
        return future

    def unfinished(self) -> Optional[Any]:
        """A real future of all that the next ``advance`` would wait for; None: nothing."""
        works = [f._work for f in self._futures if f._work is not None and not f._work.done()]
        # torch's function: collect_all of torch.futures knows of chains.
        return torch._C._collect_all(works) if works else None

    def advance(self) -> bool:
        """Complete, in order, the futures made since the last call.

        Their callbacks run here, and may make the next ones. Errors go to the
        futures. Returns whether there are next ones.
        """
        futures, self._futures = self._futures, []
        outer = _current(), _observer()
        _scope.chain, _scope.observer = self, self._observer
        try:
            while futures:
                futures[0]._settle()
                del futures[0]
        finally:
            _scope.chain, _scope.observer = outer
            self._futures[:0] = futures  # what an exception left, for give_up
        return bool(self._futures)

    def give_up(self) -> Optional[Any]:
        """Complete the futures that no ``advance`` will, without their callbacks.

        Returns:
            A future that is done when they are and their collectives have ended; None: there
            were no such futures.
        """
        futures, self._futures = self._futures, []
        return _give_up.give_up(futures) if futures else None


class Observed:
    """A hook that tells of its collectives: calling it calls the hook.

    Args:
        hook: the hook.
        report: called with (bucket index, start, end, bytes) when a collective
            is done whose future the hook took: times in nanoseconds of the wall
            clock, bytes of the tensors that it left here, 0 if it failed.
    """

    __slots__ = ("_hook", "_report")

    def __init__(
        self, hook: Callable[[Any, Any], Any], report: Callable[[int, int, int, int], Any]
    ) -> None:
        self._hook = hook
        self._report = report

    def __call__(self, state: Any, bucket: Any) -> Any:
        outer = _observer()
        _scope.observer = functools.partial(_observe, self._report, bucket.index())
        try:
            return self._hook(state, bucket)
        finally:
            _scope.observer = outer


def _observer() -> Optional[Callable[[Any], None]]:
    return getattr(_scope, "observer", None)


def _observe(report: Callable[[int, int, int, int], Any], bucket: int, work: Any) -> None:
    start = time.time_ns()

    def done(future: Any) -> None:
        end = time.time_ns()
        try:
            value = future.value()
        except Exception:
            value = ()
        tensors = value if isinstance(value, (list, tuple)) else (value,)
        held = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
        report(bucket, start, end, held)

    work.add_done_callback(done)


class OrderedFuture(torch.futures.Future):  # type: ignore[misc]  # torch is untyped here
    """A torch future that waits its turn. Made by ``Chain.follow`` and ``then``."""

    def __init__(self) -> None:
        super().__init__()
        self._work: Optional[Any] = None  # the real future; None for a child
        self._parents: Sequence[Any] = ()

    def _settle(self) -> None:
        """Complete this future now, waiting for what it stands for."""
        parents, self._parents = self._parents, ()
        for parent in parents:
            if isinstance(parent, OrderedFuture):
                parent._settle()
            else:
                parent.wait()
        work, self._work = self._work, None
        if work is None:
            return  # a child: its parents' callbacks have completed it
        try:
            value = work.wait()
        except Exception as error:
            # The traceback would hold this frame, and it this future, for ever: see _callback.
            self.set_exception(error.with_traceback(None))
        else:
            self.set_result(value)

    def wait(self) -> Any:
        """Block until done, completing this future out of turn."""
        self._settle()
        return super().wait()

    def done(self) -> bool:
        """Whether the value is there, or would be if this future were asked for it."""
        return super().done() or (self._work is not None and bool(self._work.done()))

    def value(self) -> Any:
        """The value of a future that is done."""
        if self._work is not None and self._work.done():
            self._settle()
        return super().value()

    def then(self, callback: Callable[[Any], Any]) -> OrderedFuture:
        """As torch's, but an exception of the callback keeps its type."""
        child = OrderedFuture()
        child._parents = (self,)
        super().add_done_callback(_callback(callback, self, child))
        return child


def _callback(call: Callable[[Any], Any], future: Any, child: OrderedFuture) -> Callable[..., None]:
    """What completes ``child`` by what ``call`` makes of ``future``.

    An exception's traceback holds the frame that it was caught in, and torch holds the exception
    where Python's collector does not look: so that frame must not hold the child, which holds
    the exception. Else all that the callback's frames hold stays for ever.
    """
    given: list[Any] = [call, future, child]

    def run(_: Any) -> None:
        call, future, child = given
        given.clear()
        try:
            if _give_up.giving_up():
                child.set_exception(_give_up.error())
            else:
                child.set_result(call(future))
        except Exception as error:
            child.set_exception(error)
        except BaseException as error:  # an exit, say: torch takes Exceptions only
            child.set_exception(_told(error))
        finally:
            del call, future, child

    return run


def _told(error: BaseException) -> RuntimeError:
    raised = RuntimeError(f"{type(error).__name__} in a callback: {error}")
    raised.__cause__ = error
    return raised


def _collect_all(real: Callable[..., Any], futures: Sequence[Any]) -> Any:
    """``torch.futures.collect_all`` that can be waited for inside a hook."""
    if _current() is None or not any(isinstance(f, OrderedFuture) for f in futures):
        return real(futures)
    whole = OrderedFuture()
    whole._parents = list(futures)
    left = [len(futures)]

    def one(_: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            whole.set_result(list(futures))

    for future in futures:
        torch._C.Future.add_done_callback(future, one)
    return whole


def _wait_all(real: Callable[..., Any], futures: Sequence[Any]) -> Any:
    if _current() is None:
        return real(futures)
    return [future.wait() for future in _collect_all(real, futures).wait()]


def install() -> None:
    """Make ``Work.get_future`` and ``torch.futures`` know of chains. Idempotent.

    Nothing changes for code that runs outside a chain. Done once, before hooks
    are loaded, since modules may keep the functions under names of their own.
    """
    if getattr(dist.Work if hasattr(dist, "Work") else dist._Work, "_pyhook_ordered", False):
        return
    work_class = dist.Work if hasattr(dist, "Work") else dist._Work
    real_get_future = work_class.get_future

    @functools.wraps(real_get_future)
    def get_future(self: Any) -> Any:
        chain, observer = _current(), _observer()
        future = real_get_future(self)
        if observer is not None:
            observer(future)
        return future if chain is None else chain.follow(future)

    work_class.get_future = get_future
    work_class._pyhook_ordered = True
    collect_all, wait_all = torch.futures.collect_all, torch.futures.wait_all
    torch.futures.collect_all = functools.wraps(collect_all)(
        functools.partial(_collect_all, collect_all)
    )
    torch.futures.wait_all = functools.wraps(wait_all)(functools.partial(_wait_all, wait_all))
