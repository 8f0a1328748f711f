"""Writes the stacks of a worker process for its trainer."""

from __future__ import annotations

import faulthandler
import os
from typing import Any


def write_stacks(descriptor: int, signal: int) -> None:
    """Write the stacks of all threads to a descriptor when the process ends, or on ``signal``.

    It does so before a signal such as SIGSEGV or ``os._exit`` ends the process. It needs no GIL,
    so it works while a thread holds that.
    """
    faulthandler.enable(descriptor, True)
    faulthandler.register(signal, descriptor, all_threads=True, chain=False)
    leave, process = os._exit, os.getpid()

    def leave_traced(status: int) -> Any:
        if os.getpid() == process:  # not in a child that a hook forked
            faulthandler.dump_traceback(descriptor, True)
        leave(status)

    os._exit = leave_traced
