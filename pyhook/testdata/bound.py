"""Hooks that use what belongs to the thread that made it, as in a plain Python trainer."""

import asyncio
import faulthandler
import os
import signal
import sqlite3
import threading

import torch

MAIN = threading.current_thread() is threading.main_thread()
CONNECTION = sqlite3.connect(":memory:")
CONNECTION.execute("create table calls (bucket integer)")
LOCAL = threading.local()
LOCAL.name = "made at import"
LOOP = asyncio.new_event_loop()
asyncio.set_event_loop(LOOP)
FORMER = signal.signal(signal.SIGUSR2, lambda *_: SIGNALS.append(1))
SIGNALS = []
faulthandler.enable()


class State:
    def __init__(self):
        self.main = threading.current_thread() is threading.main_thread()
        self.connection = sqlite3.connect(":memory:")
        self.connection.execute("create table calls (bucket integer)")
        self.local = threading.local()
        self.local.calls = 0


def _use(state):
    assert MAIN and state.main
    assert threading.current_thread() is threading.main_thread()
    assert LOCAL.name == "made at import"
    CONNECTION.execute("insert into calls values (1)")
    state.connection.execute("insert into calls values (1)")
    state.local.calls += 1
    assert asyncio.get_event_loop() is LOOP
    assert LOOP.run_until_complete(asyncio.sleep(0, "slept")) == "slept"


def hook(state, bucket):
    """Uses them in the call, and in a callback of a collective."""
    _use(state)
    future = torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future()

    def then(fut):
        _use(state)
        return fut.value()[0]

    return future.then(then)


def calls(state):
    """How many calls and callbacks there were, as each of them counted."""
    (first,) = CONNECTION.execute("select count(*) from calls").fetchone()
    (second,) = state.connection.execute("select count(*) from calls").fetchone()
    return [first, second, state.local.calls]


def forget_signals():
    signal.signal(signal.SIGUSR2, FORMER or signal.SIG_DFL)


def where(state, bucket):
    """Notes the thread that it is called on, and in a callback."""
    state.append(threading.get_ident())
    future = torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future()

    def then(fut):
        state.append(threading.get_ident())
        return fut.value()[0]

    return future.then(then)


def new_list():
    return []


def takes_faults(state, bucket):
    """Takes Go's handlers by every way there is."""
    import ctypes

    faulthandler.enable()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGSEGV, lambda *_: os._exit(9))
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT):
        libc.signal(int(number), None)
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def blocks(state, bucket):
    """Blocks in C until somebody releases the lock that it puts into its state, a list."""
    lock = threading.Lock()
    lock.acquire()
    state.append(lock)
    assert lock.acquire(timeout=60)
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future
