"""The Python side of Go's package worker: a process that runs hooks for a trainer."""

from __future__ import annotations

import faulthandler
import os
from typing import Any


def write_stacks(descriptor: int, signal: int) -> None:
    """Have the stacks of all threads written to a descriptor.

    That happens when a signal such as SIGSEGV is about to end the process, when
    ``os._exit`` is, and when ``signal`` arrives: without Python's global lock, so
    also while something holds that.
    """
    faulthandler.enable(descriptor, True)
    faulthandler.register(signal, descriptor, all_threads=True, chain=False)
    leave, process = os._exit, os.getpid()

    def leave_traced(status: int) -> Any:
        if os.getpid() == process:  # and not a child that a hook forked
            faulthandler.dump_traceback(descriptor, True)
        leave(status)

    os._exit = leave_traced
