"""The Python side of Go's package worker: a process that runs hooks for a trainer."""

from __future__ import annotations

import datetime
import faulthandler
import os
import threading
import time
import uuid
from typing import Any, Optional

from . import _torch  # noqa: F401  (first: a clear error when torch is missing)

# isort: split
import torch.distributed as dist

_PORT_MISSING = "MASTER_ADDR and MASTER_PORT must be set, or the InitMethod be tcp://host:port"


def watch(descriptor: int, signal: int) -> int:
    """Have the stacks of all threads written to a descriptor.

    That happens when a signal such as SIGSEGV is about to end the process, when
    ``os._exit`` is, and when ``signal`` arrives: without Python's global lock, so
    also while something holds that.

    Returns:
        The id of the OS thread to send ``signal`` to: Python's main thread, which
        sleeps on a stack of C's own.
    """
    faulthandler.enable(descriptor, True)
    faulthandler.register(signal, descriptor, all_threads=True, chain=False)
    leave, process = os._exit, os.getpid()

    def leave_traced(status: int) -> Any:
        if os.getpid() == process:  # and not a child that a hook forked
            faulthandler.dump_traceback(descriptor, True)
        leave(status)

    os._exit = leave_traced
    return int(threading.main_thread().native_id or 0)


def meet(
    init_method: str, rank: int, size: int, timeout_seconds: float, former: str
) -> tuple[Any, str]:
    """Find the other workers' processes, the ones that run now.

    A worker that is started anew may find the store of the group before, which a
    rank 0 serves that is not restarted yet. So rank 0 gives each group a name of
    its own, and the others do not take the name of the group that they had.

    Args:
        init_method: "" or "env://", "tcp://host:port", "file://path".
        rank, size: of this process.
        timeout_seconds: 0 for PyTorch's 30 minutes.
        former: the name that this rank's worker before this one got; "" if none.

    Returns:
        A store for ``init_process_group``, and the group's name.
    """
    if size == 1:
        return dist.HashStore(), uuid.uuid4().hex
    deadline = time.monotonic() + (timeout_seconds or 1800)
    while True:
        left = deadline - time.monotonic()
        try:
            store = _store(init_method, rank, left)
            name = _name(store, rank, former)
        except (RuntimeError, OSError):  # that of the group before is going away
            if rank == 0 or left < 0:
                raise
            name = None
        if name:
            return dist.PrefixStore(f"pyhook/{name}", store), name
        if left < 0:
            raise TimeoutError("timed out: rank 0's worker was not started anew")
        time.sleep(0.05)


def _name(store: Any, rank: int, former: str) -> Optional[str]:
    key = "pyhook/" + os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if rank == 0:
        name = uuid.uuid4().hex
        store.set(key, name)
        return name
    found = str(store.get(key).decode())
    return None if found == former else found


def _store(init_method: str, rank: int, seconds: float) -> Any:
    timeout = datetime.timedelta(seconds=max(seconds, 1))
    method, _, where = (init_method or "env://").partition("://")
    if method == "file":
        return dist.FileStore(where, -1)
    agent = False
    if method == "env":
        host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    else:
        host, _, port = where.rpartition(":")
    if not host or not port:
        raise ValueError(_PORT_MISSING)
    # Without a number of workers, as those that come again are no more of them.
    options = {"timeout": timeout, "wait_for_workers": False}
    serve = rank == 0 and not agent
    try:
        return dist.TCPStore(host, int(port), None, serve, use_libuv=False, **options)
    except TypeError:  # torch < 2.3
        return dist.TCPStore(host, int(port), None, serve, **options)
