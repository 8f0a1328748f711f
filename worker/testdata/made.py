"""States and hooks that are made with the trainer's parameters."""

import torch


def _done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


class ById:
    """Tables by id(parameter), the values at the start, and attributes from Go."""

    def __init__(self, parameters, process_group, scale=1):
        self.start = {id(p): p.detach().clone() for p in parameters}
        self.names = {id(p): name for name, p in parameters.named_parameters()}
        self.size = process_group.size()
        self.scale = scale


def by_id(state, bucket):
    """Each gradient becomes its parameter's value at the start, if it is not shared."""
    for p, gradient in zip(bucket.parameters(), bucket.gradients()):
        assert state.names[id(p)] in ("fc.weight", "fc.bias")
        if getattr(p, "is_shared_mp", False):
            gradient.fill_(-1)
        else:
            gradient.copy_(state.start[id(p)] * state.scale)
    return _done(bucket.buffer())


class Stats:
    def attach(self, ddp):
        self.names = [name for name, _ in ddp.named_parameters()]
        ddp.register_comm_hook(self, Stats.hook)

    @staticmethod
    def hook(self, bucket):
        assert self.names == ["module.fc.weight", "module.fc.bias"], self.names
        return _done(bucket.buffer().fill_(len(self.names)))
