"""A future that completes in its chain's order: see ``chain``."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from typing import Any, Callable, Optional

import torch

from . import nccl_futures
from .give_up import GivenUp
from .issued import Issued, set_exception
from .scope import scope

# These wait with nothing half done: pyhook.Interrupted may come (cbridge/interrupt.py).
_INTERRUPTIBLE = ("_complete_interruptibly", "_wait_plainly")

# The C++ future's own methods: those of torch.futures.Future ask chains.
is_done = torch._C.Future.done
_wait = torch._C.Future.wait
value_of = torch._C.Future.value
on_done = torch._C.Future.add_done_callback


class OrderedFuture(torch.futures.Future):  # type: ignore[misc]  # torch is untyped here
    """A torch future that its chain completes. ``Chain.ordered`` and ``then`` make it.

    Args:
        devices: whose streams it orders, as torch's own futures of collectives do; none on the CPU.
    """

    def __init__(self, devices: Sequence[torch.device] = ()) -> None:
        super().__init__(devices=devices) if devices else super().__init__()
        self._devices = devices
        self._work: Optional[Any] = None  # the real future; None for a child
        self._parents: Sequence[Any] = ()
        self._issued: Optional[Issued] = None  # of the work
        self._has_callbacks = False  # which run when it is done

    def _complete(self) -> None:
        """Wait for the work or the parents, and complete this future."""
        parents, self._parents = self._parents, ()
        for parent in parents:
            if isinstance(parent, OrderedFuture):
                parent._complete()
            elif not is_done(parent):
                ask(parent)
                _wait_plainly(parent)
        work, self._work = self._work, None
        if work is None:
            return  # a child: its parents' callbacks have completed it
        try:
            value = work.wait()
        except Exception as error:
            fail(self, error)
        else:
            self.set_result(value)

    def _complete_interruptibly(self) -> bool:
        """Complete this future as ``_complete`` does, in a wait that can be interrupted.

        Returns:
            False if it waits for a future that is not the chain's and is not done.
        """
        for parent in self._parents:
            if isinstance(parent, OrderedFuture):
                if not parent._complete_interruptibly():
                    return False
            else:
                ask(parent)
                if not is_done(parent):
                    return False
        pause = 0.00005
        while self._work is not None and not self._work.done():
            time.sleep(pause)
            pause = min(2 * pause, 0.001)
        self._complete()
        return True

    def _look(self) -> None:
        """Note that the hook asks for the outcome: it will see a failure."""
        if self._issued is not None:
            self._issued.seen = True

    def wait(self) -> Any:
        """Block until done, completing this future out of turn."""
        self._look()
        self._complete()
        if not is_done(self):
            _wait_plainly(self)
        return _wait(self)

    def done(self) -> bool:
        """Return whether the value is there, after waiting for it if the future has callbacks."""
        if is_done(self):
            return True
        if scope.chain is None or (self._work is not None and not self._has_callbacks):
            return self._work is not None and bool(self._work.done())
        self._complete_interruptibly()
        return bool(is_done(self))

    def value(self) -> Any:
        """Wait for the value and return it."""
        self._look()
        if not is_done(self):
            if scope.chain is not None:
                self._complete_interruptibly()
            elif self._work is not None and self._work.done():
                self._complete()
        return value_of(self)

    def then(self, callback: Callable[[Any], Any]) -> OrderedFuture:
        """As torch's, but the callback's exception keeps its type."""
        return ordered_then(self, callback)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Wait for the value and run the callback here."""
        if scope.chain is not None and not is_done(self):
            self._complete_interruptibly()
        on_done(self, nccl_futures.carried(callback))


def ordered_then(future: Any, callback: Callable[[Any], Any]) -> OrderedFuture:
    callback = nccl_futures.carried(callback)
    child = OrderedFuture(devices_of(future))
    child._parents = (future,)
    if isinstance(future, OrderedFuture):
        future._has_callbacks = True
    on_done(future, _callback(callback, future, child))
    return child


def devices_of(future: Any) -> Sequence[torch.device]:
    """Return the devices of what is made of a future: its own, or those of the running chain."""
    if isinstance(future, OrderedFuture) and future._devices:
        return future._devices
    return scope.chain.devices if scope.chain is not None else ()


def _callback(call: Callable[[Any], Any], future: Any, child: OrderedFuture) -> Callable[..., None]:
    """Return the callback that completes ``child`` by ``call(future)``.

    It is a generator, which continues inside a ``try``. A function begins before its ``try``: an
    Interrupted that was raised while C++ was about to call it would come there, and the child
    would never be done.
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
            if scope.giving_up:
                fail(child, GivenUp())
            else:
                child.set_result(call(future))
        except Exception as error:
            fail(child, error)
        except BaseException as error:  # an exit, say: torch takes Exceptions only
            fail(child, _as_runtime_error(error))
        finally:
            del call, future, child
    except GeneratorExit:
        raise  # nobody called it
    except BaseException as error:
        if given:
            fail(given.pop(), _as_runtime_error(error))
            given.clear()
    yield


def _as_runtime_error(error: BaseException) -> RuntimeError:
    raised = RuntimeError(f"{type(error).__name__} in a callback: {error}")
    raised.__cause__ = error
    return raised


def fail(future: OrderedFuture, error: Exception) -> None:
    """Give a future an exception, without the caller's own frame in its traceback."""
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
    chain = scope.chain
    if chain is not None:
        chain._errors.append(error)
    set_exception(future, error, bool(future._devices))


def ask(future: Any) -> None:
    """Complete what may complete ``future``, one that the hook made itself."""
    chain = scope.chain
    if chain is not None and not is_done(future):
        chain.complete_until(future)


def _wait_plainly(future: Any) -> None:
    """Wait for a future, whatever its outcome."""
    done = threading.Event()
    on_done(future, lambda _: done.set())
    while not done.wait(0.1):  # Python can be interrupted between two waits
        pass
