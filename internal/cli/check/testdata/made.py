"""Hooks, states and objects that are made with what the trainer has."""

import torch.distributed as dist


def mean(state, bucket):
    buffer = bucket.buffer().div_(dist.get_world_size())
    return dist.all_reduce(buffer, async_op=True).get_future().then(lambda f: f.value()[0])


def make(factor, name="mean"):
    assert name == "mean"

    def scaled(state, bucket):
        buffer = bucket.buffer().mul_(factor)  # 1 / 2 ranks
        return dist.all_reduce(buffer, async_op=True).get_future().then(lambda f: f.value()[0])

    return scaled


class Stats:
    """Registers its hook by a method."""

    def __init__(self, names=()):
        self.names = list(names)

    def attach(self, ddp):
        self.names += [name for name, _ in ddp.named_parameters()]
        assert ddp.process_group.size() == dist.get_world_size()
        ddp.register_comm_hook(self, Stats.hook)

    @staticmethod
    def hook(self, bucket):
        assert "module.bucket0.parameter0" in self.names, self.names
        return mean(None, bucket)


class InConstructor:
    """k-diffusion's DDPGradientStatsHook has this form."""

    def __init__(self, ddp_module):
        ddp_module.register_comm_hook(self, self.hook)

    @staticmethod
    def hook(self, bucket):
        assert isinstance(self, InConstructor)
        return mean(None, bucket)


def through(hook, times):
    def passed_on(state, bucket):
        return hook(state, bucket).then(lambda f: f.value() * times)

    return passed_on


class ById:
    """A state with a table by id(parameter)."""

    def __init__(self, parameters):
        self.names = {id(p): name for name, p in parameters.named_parameters()}


def by_id(state, bucket):
    names = [state.names[id(p)] for p in bucket.parameters()]
    assert names[0] == f"bucket{bucket.index()}.parameter0"
    return mean(None, bucket)


class Own:
    pass


def wants_its_own(state, bucket):
    assert isinstance(state, Own), type(state)
    return mean(None, bucket)
