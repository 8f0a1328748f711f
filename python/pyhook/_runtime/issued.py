"""The collectives that a hook issues, so that none fails unseen.

``dist.all_reduce(x, op=AVG, async_op=True)`` with gloo of torch 1.13 returns a work that fails
later. A hook that does not look at that work returns gradients which nobody reduced, and no
error. PyTorch does nothing about it.

Here the methods of a group, which every function of torch.distributed calls, note the works made
while a hook or one of its callbacks runs. The hook has seen a failure when it has asked the work
(``wait()``, ``exception()``, ...) or the value of a future of it. What is unseen at the end of the
call is an error of that call.

Code outside hooks pays one look at a thread's variable for a collective.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional

import torch
import torch.distributed as dist

from .._errors import HookContractError, OutOfStepError
from .scope import scope

WORK: Any = dist.Work if hasattr(dist, "Work") else dist._Work

_ISSUING = {
    "allreduce": "all_reduce",
    "allreduce_coalesced": "all_reduce_coalesced",
    "broadcast": "broadcast",
    "reduce": "reduce",
    "allgather": "all_gather",
    "allgather_coalesced": "all_gather_coalesced",
    "_allgather_base": "all_gather_into_tensor",
    "all_gather_single": "all_gather_into_tensor",
    "all_gather_single_coalesced": "all_gather_into_tensor",
    "allgather_into_tensor_coalesced": "all_gather_into_tensor",
    "gather": "gather",
    "gather_into_tensor": "gather",
    "gather_single": "gather",
    "scatter": "scatter",
    "reduce_scatter": "reduce_scatter",
    "_reduce_scatter_base": "reduce_scatter_tensor",
    "reduce_scatter_single": "reduce_scatter_tensor",
    "reduce_scatter_single_coalesced": "reduce_scatter_tensor",
    "reduce_scatter_tensor_coalesced": "reduce_scatter_tensor",
    "alltoall": "all_to_all",
    "alltoall_base": "all_to_all_single",
    "all_to_all_single": "all_to_all_single",
    "barrier": "barrier",
    "send": "send",
    "recv": "recv",
    "recv_anysource": "recv",
    "_end_coalescing": "the end of a coalescing manager",
}
"""The methods of a group that return a work -> what torch.distributed calls them.
(torch/csrc/distributed/c10d/init.cpp, of 1.13 and 2.15)"""

_LOOKING = ("wait", "exception", "is_success", "result", "synchronize")
"""The methods of a work that show a failure."""

_real_get_future = WORK.get_future  # before anything wraps it


class Issued:
    """One collective: its name, its real future, and whether the hook has looked at it."""

    def __init__(self, name: str, work: Any, future: Any, hook: Any) -> None:
        self.name, self.future, self.hook, self.seen = name, future, hook, False
        # The callback is in C: pyhook.Interrupted would be lost in Python code, and the entry stay.
        self._work = weakref.ref(work, functools.partial(_by_work.pop, id(work)))

    def dropped(self) -> bool:
        """Return whether the hook has dropped the work, so that it cannot ask it any more."""
        work = self._work()
        if work is None:
            return True
        # pyhook's Go side holds a work of a Go transport until it is done. Its reference, the
        # variable above and getrefcount's argument are left then.
        return getattr(work, "_pyhook_held", False) and sys.getrefcount(work) <= 3

    def error(self) -> Optional[Exception]:
        """Return what it failed with, or None."""
        try:
            self.future.value()
        except Exception as error:
            return error
        return None


_inside: list[None] = []  # one for each thread that is in a method of a group
_ending = False  # groups are: no method of theirs may begin

_by_work: dict[int, Issued] = {}  # of the works that are alive
_later: list[Issued] = []  # unseen and not done at the end of their call; the hook kept the work


def issued_as(work: Any) -> Optional[Issued]:
    """Return what was noted of a work when it was issued."""
    return _by_work.get(id(work)) if _by_work else None


class Issues:
    """What one hook call issued."""

    __slots__ = ("_hook", "_issues")

    def __init__(self, hook: Any) -> None:
        self._hook = hook
        self._issues: Optional[list[Issued]] = None  # made by the first

    def issued(self, name: str, work: Any) -> None:
        """Note a work."""
        try:  # the real future: get_future may be patched
            future = getattr(type(work), "_pyhook_real_get_future", _real_get_future)(work)
        except Exception:
            return  # a backend without futures: its works can only be waited for
        one = Issued(name, work, future, self._hook)
        _by_work[id(work)] = one
        if self._issues is None:
            self._issues = []
        self._issues.append(one)

    def unseen(self) -> list[Issued]:
        """Return those that the hook has not looked at."""
        return [one for one in self._issues or () if not one.seen]

    def order(self) -> None:
        """Have the current stream wait for all of them: on a device they may still be running.

        Else what the stream has next may use the bucket while a collective writes to it that the
        hook dropped, or that it has on a stream of its own.
        """
        for one in self._issues or ():
            with contextlib.suppress(Exception):  # which check judges
                torch._C.Future.wait(one.future)

    def check(self) -> None:
        """Raise for a collective that has failed and that the hook has not looked at.

        The hook may look at one that is not done in a later call: the check of that call judges
        it.

        Raises:
            HookContractError: ``collective``.
        """
        if self._issues is None and not _later:
            return
        mine, self._issues = self.unseen(), None
        earlier, _later[:] = [one for one in _later if not one.seen], []
        error: Optional[HookContractError] = None
        for one in mine + earlier:
            if one.hook is not self._hook or not one.future.done():
                _later.append(one)
            elif error is None:
                error = _failure(one, "" if one in mine else " in an earlier call")
        if error is not None:
            raise error


def _failure(one: Issued, where: str) -> Optional[HookContractError]:
    cause = one.error()
    if cause is None:
        return None
    error = HookContractError(
        "collective",
        f"{one.name}, which the hook issued{where} and did not look at, failed: "
        f"{type(cause).__name__}: {cause}",
        "let the hook see it: wait() for the work, or read fut.value() in each callback of its "
        "future; the gradients would be those that nobody reduced",
    )
    error.__cause__ = cause
    return error


class CheckedHook:
    """A hook with real futures, whose collectives are checked. Calling it calls the hook.

    The future that it returns also waits for the works that the hook dropped, and fails if a
    collective of the call failed unseen. What callbacks issue, on the backend's threads, is not
    noted.
    """

    def __init__(self, hook: Callable[[Any, Any], Any]) -> None:
        self._hook = hook

    def __call__(self, state: Any, bucket: Any) -> Any:
        if scope.issues is not None:  # inside a chain, which checks
            return self._hook(state, bucket)
        call = Issues(self._hook)
        scope.issues = call
        try:
            future = self._hook(state, bucket)
        except BaseException:
            if bucket.buffer().device.type != "cpu":
                call.order()
            raise
        finally:
            scope.issues = None
        unseen = call.unseen()
        earlier = any(one.hook is self._hook for one in _later)
        if not (unseen or earlier) or not isinstance(future, torch._C.Future):
            return future
        device = bucket.buffer().device
        devices = [] if device.type == "cpu" else [device]
        return _joined(future, [one.future for one in unseen if one.dropped()], call, devices)


def _joined(future: Any, others: list[Any], call: Issues, devices: list[torch.device]) -> Any:
    """Return the hook's future as one that is done when the others are too."""
    whole = torch.futures.Future(devices=devices) if devices else torch.futures.Future()

    def complete() -> None:
        if devices:
            call.order()
        try:
            value = torch._C.Future.wait(future)  # done: on a device the stream waits for it
            call.check()
        except Exception as error:
            cut(error)
            set_exception(whole, error, bool(devices))
        else:
            whole.set_result(value)

    when_all_done([future, *others], complete)
    return whole


def set_exception(future: Any, error: Exception, on_device: bool) -> None:
    """Give a future an exception, on a device also one that cannot be pickled.

    There torch pickles what a future completes with, to find the tensors in it, and fails the
    future with what that raises.
    """
    if not on_device:
        future.set_exception(error)
        return
    future._set_unwrap_func(functools.partial(_raise, error))
    future.set_result(RuntimeError(f"{type(error).__name__}: {error}"))


def _raise(error: Exception, _: Any) -> Any:
    raise error


def when_all_done(futures: Sequence[Any], call: Callable[[], None]) -> None:
    """Call a function when all futures are done, whatever their outcome.

    torch's own collect_all is done as soon as one has failed.
    """
    ended = itertools.count(1)  # its next() is one step, whichever threads call it

    def one(_: Any) -> None:
        if next(ended) == len(futures):
            call()

    for future in futures:
        torch._C.Future.add_done_callback(future, one)
    if not futures:
        call()


def cut(error: Optional[BaseException]) -> None:
    """Take the tracebacks from an exception that a future failed with.

    The future's C++ half holds the exception, which holds its traceback, which holds the frames
    that have the future and the bucket as variables: a cycle that no garbage collector sees, with
    the bucket's memory in it.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _looking(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def look(self: Any, *args: Any, **kwargs: Any) -> Any:
        issued = issued_as(self)
        if issued is not None:
            issued.seen = True
        return real(self, *args, **kwargs)

    return look


def _issuing(real: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(real)
    def issue(self: Any, *args: Any, **kwargs: Any) -> Any:
        _inside.append(None)  # before the look: ending looks the other way round
        try:
            if _ending:
                raise OutOfStepError("out_of_step", f"{name}: this process group is being retired")
            work = real(self, *args, **kwargs)
        finally:
            _inside.pop()
        if scope.issues is not None and isinstance(work, WORK):
            scope.issues.issued(name, work)
        return work

    return issue


@contextlib.contextmanager
def ending(seconds: float) -> Iterator[None]:
    """While groups are destroyed, keep threads out of their methods: C++ would use freed memory.

    It waits so long for those that are. They issue a collective, and none waits for it there.
    """
    global _ending
    _ending = True
    try:
        until = time.monotonic() + seconds
        while _inside and time.monotonic() < until:
            time.sleep(0.0005)
        yield
    finally:
        _ending = False


def patch_work(work_class: Any) -> None:
    """Have the methods that a class of works defines note that the hook looks at the work."""
    for name in _LOOKING:
        if name in vars(work_class):
            setattr(work_class, name, _looking(getattr(work_class, name)))


def patch_group(group_class: Any) -> None:
    """Have the methods that a class of groups defines note the works that they return."""
    for name, said in _ISSUING.items():
        if name in vars(group_class):
            setattr(group_class, name, _issuing(getattr(group_class, name), said))
