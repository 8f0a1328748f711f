"""Python's signal and faulthandler modules in a Go program: Go keeps its signal handlers."""

import _signal
import faulthandler
import functools
import os
import sys

_GO = {
    getattr(_signal, name)
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGURG", "SIGPROF")
    if hasattr(_signal, name)
}
"""What faulthandler.register must pass on: Go programs and Go itself use these."""

_FAULTS = {_signal.SIGSEGV, _signal.SIGBUS, _signal.SIGFPE, _signal.SIGILL, _signal.SIGABRT}
_NOT_PASSED = _FAULTS | {_signal.SIGURG}
"""What Go passes on to nobody: faults are panics, and by SIGURG it preempts goroutines."""

_here = os.getpid()  # the process that Go runs in
_relays = []  # the Go function, while there is one


def install(guard, releases_faults, relay):
    """Make signal.signal and faulthandler leave Go's handlers in place.

    guard(f, args, kwargs) calls f and undoes its changes of signals, except in a forked child.
    relay(number, on) starts or ends that Go passes a signal on.
    releases_faults() says that faulthandler may have the faults.
    """
    take = _signal.signal
    enable, register = faulthandler.enable, faulthandler.register

    @functools.wraps(take)
    def signal(signalnum, handler, /):
        former = guard(take, (signalnum, handler), {})
        number = int(signalnum)
        if _relays and number not in _NOT_PASSED and os.getpid() == _here:
            _relays[0](number, callable(handler) or handler == _signal.SIG_IGN)
        return former

    @functools.wraps(enable)
    def enable_beside_go(*args, **kwargs):
        if releases_faults():
            return enable(*args, **kwargs)
        return guard(enable, args, kwargs)

    @functools.wraps(register)
    def register_beside_go(signum, file=sys.stderr, all_threads=True, chain=False):
        return register(signum, file, all_threads, chain or signum in _GO)

    _relays.append(relay)
    _signal.signal = signal
    faulthandler.enable, faulthandler.register = enable_beside_go, register_beside_go


def stop():
    """Ask Go for no more signals."""
    _relays.clear()


def deliver(number):
    """Run a signal's handler, where CPython has no function for that (3.9)."""
    handler = _signal.getsignal(number)
    if callable(handler):
        handler(number, sys._getframe())


def run_handlers():
    """Run the handlers of signals that came, on the calling thread."""
    try:
        for _ in range(100):
            pass
    except BaseException:  # no caller to raise it to
        sys.excepthook(*sys.exc_info())
