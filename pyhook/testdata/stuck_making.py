"""Hooks and states whose making, saving or restoring does not end."""

import torch


def endless(*args, **kwargs):
    while True:
        pass


def hook(state, bucket):
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


class State:
    endless = False

    def __getstate__(self):
        if self.endless:
            endless()
        return {"step": 1}

    def __setstate__(self, state):
        if self.endless:
            endless()


def registers(ddp):
    ddp.register_comm_hook(None, hook)
    endless()
