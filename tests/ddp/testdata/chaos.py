"""A hook whose result depends on how often its state saw a call, and that fails as it is told to."""

import os
import signal
import subprocess
import time

import torch
import torch.distributed as dist

DONE = set()  # of the plan; in the module, so that no rollback brings a fault back: it makes no State


class State:
    """calls counts the hook's calls; group is where it reduces."""

    def __init__(self, plan: list, process_group=None) -> None:
        DONE.clear()  # of an earlier case in this process
        self.plan = [tuple(at) for at in plan]
        self.group = process_group
        self.calls = 0
        self.step = 0

    def fault(self, bucket: int) -> str:
        for at in self.plan:
            if at[:2] == (self.step, bucket) and at not in DONE:
                DONE.add(at)
                return at[2]
        return ""


def freeze(seconds: float) -> None:
    subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)


def hook(state: State, bucket):
    if bucket.index() == 0:
        state.step += 1
    state.calls += 1
    kind = state.fault(bucket.index())
    if kind == "raises":
        raise ValueError("as planned")
    if kind == "freezes":
        freeze(5)
    if kind == "loops":
        while True:
            time.sleep(0.01)
    calls = state.calls
    buffer = bucket.buffer() + calls  # not in place
    future = dist.all_reduce(buffer, group=state.group, async_op=True).get_future()
    if kind == "raises late":
        raise ValueError("as planned, with a collective under way")

    def mean(done):
        total = done.value()[0]
        if kind == "callback":
            raise ValueError("as planned, in a callback")
        if kind == "none":
            return None
        if kind == "short":
            return total[:1]
        if kind == "infinite":
            return total * torch.inf
        return total / dist.get_world_size()

    return future.then(mean)
