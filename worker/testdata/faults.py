"""Hooks that do to their process what no hook should. Which, the first element says."""

import ctypes
import os
import signal
import sys
import threading
import time

import torch
import torch.distributed as dist


def segv():
    ctypes.string_at(0)


def abort():
    os.abort()


def leave():
    os._exit(7)


def sys_exit():
    sys.exit(3)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(100)  # this thread may go on for a moment


def hold_gil():
    ctypes.PyDLL(None).sleep(100)


def spin():
    while True:
        pass


def sleep():
    time.sleep(100)


def lock():
    held = threading.Lock()
    held.acquire()
    held.acquire()


def eat():
    food = []
    while True:
        food.append(bytearray(os.urandom(1) * (8 << 20)))
        time.sleep(0.001)


def terminate():
    """An uncaught C++ exception, as of gloo's threads."""
    ctypes.CDLL("libstdc++.so.6")._ZSt9terminatev()


def say():
    print("a line of rank", dist.get_rank())
    os.write(2, b"the last words\n")
    os._exit(1)


# In the order of faults_test.go.
FAULTS = [
    None, segv, abort, leave, sys_exit, kill, stop, hold_gil, spin, sleep, lock, eat, terminate, say,
]  # fmt: skip


def in_call(state, bucket):
    fault = FAULTS[int(bucket.buffer()[0])]
    if fault:
        fault()
    return average(bucket.buffer())


def in_callback(state, bucket):
    fault = FAULTS[int(bucket.buffer()[0])]

    def then(future):
        if fault:
            fault()
        return average(bucket.buffer()).wait()

    work = dist.all_reduce(torch.zeros(1), async_op=True)
    return work.get_future().then(then)


def average(tensor):
    tensor.div_(dist.get_world_size())
    work = dist.all_reduce(tensor, async_op=True)
    return work.get_future().then(lambda f: f.value()[0])
