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

import functools
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, Callable, Optional

from . import _torch  # noqa: F401  (first: a clear error when torch is missing)

# isort: split
import torch
import torch.distributed as dist

from . import _forms, _give_up, _issued
from ._grad import GradOff
from ._issued import Issued, Issues, cut

# Nothing is half done where these wait: pyhook.Interrupted may come (cbridge/interrupt.py).
_INTERRUPTIBLE = ("_settle_in_time", "_wait_plainly")

# .chain: the Chain whose hook or callback runs on this thread
# .observer: what the hook that runs on this thread tells of its collectives
_scope = threading.local()

# The C++ future's own methods: those of torch.futures.Future ask chains.
_is_done = torch._C.Future.done
_wait = torch._C.Future.wait
_value = torch._C.Future.value
_on_done = torch._C.Future.add_done_callback


def _current() -> Optional[Chain]:
    return getattr(_scope, "chain", None)


class Chain(Issues):
    """The ordered futures of one hook call. Calling it calls the hook.

    Used by one thread at a time: the Reducer's launcher.

    Args:
        keep_tracebacks: of exceptions that futures failed with, after ``advance``. They
            may keep the bucket alive for ever.
    """

    __slots__ = ("_errors", "_futures", "_keep", "_level", "_observer")

    def __init__(self, hook: Callable[[Any, Any], Any], keep_tracebacks: bool = False) -> None:
        super().__init__(hook)
        self._keep = keep_tracebacks
        self._observer: Optional[Callable[[Any], None]] = None  # the call's, for its callbacks
        self._level: deque[OrderedFuture] = deque()  # what advance has still to complete
        self._futures: deque[OrderedFuture] = deque()  # made since it began
        self._errors: list[BaseException] = []  # that its futures failed with

    def __call__(self, state: Any, bucket: Any) -> Any:
        outer = _enter(self)
        try:
            return self._hook(state, bucket)
        finally:
            _leave(outer)

    def follow(self, work: Any, issued: Optional[Issued] = None) -> OrderedFuture:
        """An OrderedFuture of a real future; completed by the next ``advance``.

        Args:
            work: the real future.
            issued: what was noted of its work.
        """
        future = OrderedFuture()
        future._work, future._issued = work, issued
        self._futures.append(future)
        self._observer = _observer() or self._observer
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
            outer, observer = _enter(self), _observer()
            _scope.observer = self._observer
            try:
                while self._level:
                    self._settle_next()
            finally:
                _scope.observer = observer
                _leave(outer)
        if not self._keep:
            for error in self._errors:  # whoever waits for the future has taken it
                cut(error)
        if self._futures or self._unattended():
            return True
        self.check()
        return False

    def _settle_next(self) -> None:
        """Complete the level's first future; what is no Exception leaves it, for give_up."""
        future = self._level.popleft()
        try:
            with GradOff():  # for each: a callback may leave it on
                future._settle()
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
        return _give_up.give_up(futures, unattended) if futures or unattended else None

    def _unattended(self) -> list[Any]:
        """Real futures, not done, of works that the hook has let go of."""
        if self._issues is None:
            return []
        return [one.future for one in self.unseen() if one.dropped() and not one.future.done()]

    def settle_for(self, future: Any) -> None:
        """Complete, in order, as many futures as it takes until ``future`` is done."""
        while not _is_done(future):
            pending = self._level or self._futures
            if not pending:
                return  # something else completes it: a thread of the hook's
            pending.popleft()._settle()


def _enter(chain: Chain) -> tuple[Any, Any]:
    """Let this thread's code be the chain's hook; what was before, for ``_leave``."""
    outer = _current(), getattr(_issued._scope, "log", None)
    _scope.chain = _issued._scope.log = chain
    return outer


def _leave(outer: tuple[Any, Any]) -> None:
    _scope.chain, _issued._scope.log = outer


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
        self._issued: Optional[Issued] = None  # of the work
        self._watched = False  # something hangs on it, and runs when it is done

    def _settle(self) -> None:
        """Complete this future now, waiting for what it stands for."""
        parents, self._parents = self._parents, ()
        for parent in parents:
            if isinstance(parent, OrderedFuture):
                parent._settle()
            elif not _is_done(parent):
                _ask(parent)
                _wait_plainly(parent)
        work, self._work = self._work, None
        if work is None:
            return  # a child: its parents' callbacks have completed it
        try:
            value = _value_of(work)
        except Exception as error:
            _fail(self, error)
        else:
            self.set_result(value)

    def _settle_in_time(self) -> bool:
        """``_settle``, but a wait that Python can be interrupted in.

        Returns:
            False: not settled, as something that is none of the chain's is not done.
        """
        for parent in self._parents:
            if isinstance(parent, OrderedFuture):
                if not parent._settle_in_time():
                    return False
            else:
                _ask(parent)
                if not _is_done(parent):
                    return False
        pause = 0.00005
        while self._work is not None and not self._work.done():
            time.sleep(pause)
            pause = min(2 * pause, 0.001)
        self._settle()
        return True

    def _look(self) -> None:
        """The hook asks for the outcome: a failure is not unseen any more."""
        if self._issued is not None:
            self._issued.seen = True

    def wait(self) -> Any:
        """Block until done, completing this future out of turn."""
        self._look()
        self._settle()
        if not _is_done(self):
            _wait_plainly(self)
        return _wait(self)

    def done(self) -> bool:
        """Whether the value is there; waits for it where callbacks hang on it."""
        if _is_done(self):
            return True
        if _current() is None or (self._work is not None and not self._watched):
            return self._work is not None and bool(self._work.done())
        self._settle_in_time()
        return bool(_is_done(self))

    def value(self) -> Any:
        """The value; waits for it."""
        self._look()
        if not _is_done(self):
            if _current() is not None:
                self._settle_in_time()
            elif self._work is not None and self._work.done():
                self._settle()
        return _value(self)

    def then(self, callback: Callable[[Any], Any]) -> OrderedFuture:
        """As torch's, but an exception of the callback keeps its type."""
        return _then(self, callback)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """As torch's, but it waits for the value and runs the callback here."""
        if _current() is not None and not _is_done(self):
            self._settle_in_time()
        _on_done(self, _forms.carried(callback))


def _value_of(work: Any) -> Any:
    """The value of a real future, waited for."""
    return work.wait()


def _then(future: Any, callback: Callable[[Any], Any]) -> OrderedFuture:
    callback = _forms.carried(callback)
    child = OrderedFuture()
    child._parents = (future,)
    if isinstance(future, OrderedFuture):
        future._watched = True
    _on_done(future, _callback(callback, future, child))
    return child


def _callback(call: Callable[[Any], Any], future: Any, child: OrderedFuture) -> Callable[..., None]:
    """What completes ``child`` by what ``call`` makes of ``future``.

    It goes on in the middle of a ``try``. A function would begin before one, and there an
    Interrupted may come that was raised while C++ was about to call it: the child would
    never be done.
    """
    completion = _completion([call, future, child])
    next(completion)
    return completion.send


def _completion(given: list[Any]) -> Generator[None, Any, None]:
    try:
        yield
        call, future, child = given
        given.clear()  # the frame of this function is in the tracebacks: see cut
        try:
            if _give_up.giving_up():
                _fail(child, _give_up.error())
            else:
                child.set_result(call(future))
        except Exception as error:
            _fail(child, error)
        except BaseException as error:  # an exit, say: torch takes Exceptions only
            _fail(child, _told(error))
        finally:
            del call, future, child
    except GeneratorExit:
        raise  # nobody called it
    except BaseException as error:
        if given:
            _fail(given.pop(), _told(error))
            given.clear()
    yield


def _told(error: BaseException) -> RuntimeError:
    raised = RuntimeError(f"{type(error).__name__} in a callback: {error}")
    raised.__cause__ = error
    return raised


def _fail(future: OrderedFuture, error: Exception) -> None:
    """Give a future an exception. The caller's own frame is left out of its traceback."""
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
    chain = _current()
    if chain is not None:
        chain._errors.append(error)
    future.set_exception(error)


def _ask(future: Any) -> None:
    """Complete what a future of the hook's own may wait for, if it is not done."""
    chain = _current()
    if chain is not None and not _is_done(future):
        chain.settle_for(future)


def _wait_plainly(future: Any) -> None:
    """Wait for a future whatever its outcome, which is for those who ask for it."""
    done = threading.Event()
    _on_done(future, lambda _: done.set())
    while not done.wait(0.1):  # in parts, so that Python can be interrupted
        pass


class _Whole(OrderedFuture):
    """The future of ``collect_all``."""

    def __init__(self, members: list[Any]) -> None:
        super().__init__()
        self._parents = self._members = members

    def _look(self) -> None:
        for member in self._members:
            if isinstance(member, OrderedFuture):
                member._look()


def _collect_all(real: Callable[..., Any], futures: Sequence[Any]) -> Any:
    """``torch.futures.collect_all`` that can be waited for inside a hook.

    As torch's it waits for all of them, and fails with the error of one that failed.
    """
    if _current() is None or not futures:
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
                _value(member)
            except Exception as error:
                failed = error
        if left > 0:
            return
        if failed is None:
            whole.set_result(members)
        else:
            _fail(whole, failed)

    for member in members:
        if isinstance(member, OrderedFuture):
            member._watched = True
        _on_done(member, functools.partial(one, member=member))
    return whole


def _wait_all(real: Callable[..., Any], futures: Sequence[Any]) -> Any:
    if _current() is None or not futures:
        return real(futures)
    return [future.wait() for future in _collect_all(real, futures).wait()]


def watch_work(work_class: Any) -> None:
    """Make ``get_future`` of a class of works, where it has its own, know of chains."""
    real = work_class.get_future
    work_class._pyhook_real_get_future = real

    @functools.wraps(real)
    def get_future(self: Any) -> Any:
        chain, observer = _current(), _observer()
        future = _forms.present(self, real)
        if observer is not None:
            observer(future)
        issued = _issued.issued_as(self)
        if chain is not None:
            return chain.follow(future, issued)
        if issued is not None:
            issued.seen = True  # nobody can tell what becomes of a real future
        return future

    work_class.get_future = get_future
    _issued.watch_work(work_class)


def _asking(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def method(self: Any) -> Any:
        _ask(self)
        return real(self)

    return method


def _chained_then(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def then(self: Any, callback: Callable[[Any], Any]) -> Any:
        return real(self, callback) if _current() is None else _then(self, callback)

    return then


def install() -> None:
    """Make ``Work.get_future`` and ``torch.futures`` know of chains. Idempotent.

    Nothing changes for code that runs outside a chain. Done once, before hooks
    are loaded, since modules may keep the functions under names of their own.
    """
    if getattr(_issued.WORK, "_pyhook_ordered", False):
        return
    watch_work(_issued.WORK)
    _issued.watch_group(dist.ProcessGroup)
    _issued.WORK._pyhook_ordered = True
    plain = torch.futures.Future
    for name in ("wait", "done", "value"):
        setattr(plain, name, _asking(getattr(plain, name)))
    plain.then = _chained_then(plain.then)
    collect_all, wait_all = torch.futures.collect_all, torch.futures.wait_all
    torch.futures.collect_all = functools.wraps(collect_all)(
        functools.partial(_collect_all, collect_all)
    )
    torch.futures.wait_all = functools.wraps(wait_all)(functools.partial(_wait_all, wait_all))
