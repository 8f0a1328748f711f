"""Hooks, states and objects that are made with what the trainer has."""

import torch
import torch.distributed as dist


def done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


class ByName:
    """A state as published: tables by name and by id(param), and attributes of parameters."""

    def __init__(self, parameters, process_group, scale: int = 2):
        self.names = {id(p): name for name, p in parameters.named_parameters()}
        self.shared = [id(p) for p in parameters if getattr(p, "is_shared_mp", False)]
        for i, p in enumerate(parameters):
            p.param_group = i
        self.parameters = parameters
        self.process_group = process_group
        self.scale = scale
        self.seen = []


def by_name(state, bucket):
    for p, gradient in zip(bucket.parameters(), bucket.gradients()):
        state.seen.append([state.names[id(p)], p.param_group, id(p) in state.shared])
        assert state.parameters[state.names[id(p)]] is p
        if id(p) not in state.shared:
            gradient.mul_(state.scale)
    return done(bucket.buffer())


def seen(state):
    return state.seen


class Stats:
    """Registers its hook with the DDP model, as many published ones do."""

    def __init__(self, decay=0.5, *, names=()):
        self.decay, self.calls, self.names = decay, 0, list(names)

    def attach(self, ddp):
        assert isinstance(ddp, torch.nn.parallel.DistributedDataParallel)
        self.names += [name for name, _ in ddp.named_parameters()]
        self.inner = [name for name, _ in ddp.module.named_parameters()]
        self.world = dist.get_world_size(ddp.process_group)
        ddp.register_comm_hook(state=self, hook=Stats.hook)

    @staticmethod
    def hook(self, bucket):
        self.calls += 1
        return done(bucket.buffer().mul_(self.decay))


class InConstructor:
    """k-diffusion's DDPGradientStatsHook has this form."""

    def __init__(self, ddp_module):
        ddp_module.register_comm_hook(self, self._hook)

    @staticmethod
    def _hook(self, bucket):
        return done(bucket.buffer().add_(1))


def setup(ddp):
    ddp.register_comm_hook(None, halved)


def registers_nothing(ddp):
    pass


def halved(state, bucket):
    assert state is None
    return done(bucket.buffer().mul_(0.5))


def make(rank, compression="fp16", inner=None):
    """A factory with keyword arguments."""
    assert type(rank) is int and compression in ("fp16", "int8")

    def hook(state, bucket):
        if inner is not None:
            return inner(state, bucket).then(lambda future: future.value().mul_(rank))
        return done(bucket.buffer().mul_(rank))

    return hook


def takes_numbers(whole=1, also: int = 2, real: float = 3, text="", maybe: "int | None" = None):
    return {"values": [whole, also, real, text, maybe]}


def keeps_numbers(state, bucket):
    assert [type(v) for v in state["values"][:2]] == [int, int], state
    return done(bucket.buffer())
