"""Hooks that look at what they are given."""

import functools
import threading

import torch
import torch.distributed as dist
from sample import done

seen = {}
kept = []


def get(name):
    return seen[name]


def forget():
    seen.clear()


def calls(*args, **kwargs):
    """How it was called."""
    state, bucket = args
    seen.update(keywords=sorted(kwargs), state=type(state).__name__)
    return done(bucket.buffer())


def look(state, bucket):
    b = bucket.buffer()
    seen.update(
        index=bucket.index(),
        is_last=bucket.is_last(),
        is_bucket=isinstance(bucket, dist.GradBucket),
        same_buffer=b is bucket.buffer(),
        shape=list(b.shape),
        requires_grad=b.requires_grad,
        new_list=bucket.gradients() is not bucket.gradients(),
        gradients=[g.tolist() for g in bucket.gradients()],
        offsets=[g.storage_offset() for g in bucket.gradients()],
        repr=repr(bucket),
    )
    return done(b)


def writes_gradients(state, bucket):
    for i, gradient in enumerate(bucket.gradients()):
        gradient.fill_(i + 1)
    return done(bucket.buffer())


def looks_at_parameters(state, bucket):
    parameters = bucket.parameters()
    seen.update(
        ids=[id(p) for p in parameters],
        are_parameters=all(type(p) is torch.nn.Parameter for p in parameters),
        shapes=[list(p.shape) for p in parameters],
        dtypes=[str(p.dtype) for p in parameters],
        nan=[bool(p.isnan().all()) for p in parameters],
        values=[p.detach().view(-1).tolist() for p in parameters],
        grads=[p.grad.view(-1).tolist() for p in parameters],
        grad_is_view=[
            p.grad.data_ptr() == g.data_ptr()
            for p, g in zip(parameters, bucket.gradients())
        ],
        in_dict=len(dict.fromkeys(parameters + bucket.parameters())),
    )
    return done(bucket.buffer())


def keeps_parameters(state, bucket):
    """Asks once and keeps them, as an optimizer does."""
    if not state:
        state.extend(bucket.parameters())
    seen["kept_grads"] = [p.grad.view(-1).tolist() for p in state]
    return done(bucket.buffer())


def descends(state, bucket):
    """An optimizer in a hook: it updates the weights."""
    with torch.no_grad():
        for parameter in bucket.parameters():
            parameter.sub_(parameter.grad, alpha=0.5)
    return done(bucket.buffer())


def replaces_the_buffer(state, bucket):
    bucket.set_buffer(bucket.buffer() * 10)
    seen["views"] = [g.tolist() for g in bucket.gradients()]
    return done(bucket.buffer())


def replaces_but_returns_the_first(state, bucket):
    first = bucket.buffer()
    bucket.set_buffer(torch.zeros(1))
    return done(first)


def keeps_the_bucket(state, bucket):
    kept.append(bucket)
    return done(bucket.buffer())


def kept_buckets():
    out = [[b.buffer().tolist(), b.index()] for b in kept]
    kept.clear()
    return out


def leaves_marks(state, bucket):
    """What one step does to its bucket object must not show in the next."""
    seen["marked"] = hasattr(bucket, "mark")
    try:
        bucket.mark = True
    except AttributeError:
        pass
    bucket.buffer().requires_grad_(False)
    return done(bucket.buffer())


def old_hook(state, bucket):
    """As torch 1.8 had them; the reducer took lists."""
    assert bucket.get_index() == bucket.index()
    assert bucket.is_the_last_bucket_to_allreduce() == bucket.is_last()
    assert bucket.get_tensors()[0] is bucket.get_tensor()
    assert len(bucket.get_per_parameter_tensors()) == len(bucket.gradients())
    bucket.set_tensor(bucket.get_tensor() * 2)
    return done([bucket.get_tensor()])


class Callable:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, state, bucket):
        return self.hook(state, bucket)

    def hook(self, state, bucket):
        return done(bucket.buffer() * self.factor)

    @classmethod
    def of_class(cls, state, bucket):
        return cls(2).hook(state, bucket)

    @staticmethod
    def of_nobody(state, bucket):
        return done(bucket.buffer() * 2)


def scaled(factor, state, bucket, extra=None):
    return done(bucket.buffer() * factor)


def annotated(state: object, bucket: "dist.GradBucket") -> "torch.futures.Future":
    return done(bucket.buffer() * 2)


def other_names(s, b, *, verbose=False):
    return done(b.buffer() * 2)


def wrapper(hook):
    @functools.wraps(hook)
    def wrapped(state, bucket):
        return hook(state, bucket).then(lambda future: future.value() * 2)

    return wrapped


instance = Callable(2)
method = instance.hook
partial = functools.partial(scaled, 2)
function = lambda state, bucket: done(bucket.buffer() * 2)


def state_is(state, bucket):
    seen["state"] = state
    seen["type"] = f"{type(state).__module__}.{type(state).__qualname__}"
    return done(bucket.buffer())


def counts(state, bucket):
    state["calls"] = state.get("calls", 0) + 1
    return done(bucket.buffer())


def uses_the_group(state, bucket):
    seen["is_group"] = isinstance(state, dist.ProcessGroup)
    return (
        dist.all_reduce(bucket.buffer(), group=state, async_op=True)
        .get_future()
        .then(lambda f: f.value()[0])
    )


class State:
    def __init__(self, process_group, rank=1):
        self.process_group, self.rank = process_group, rank


def threads():
    return [t.name for t in threading.enumerate()]


def squares(state, bucket):
    buffer = bucket.buffer()
    seen["length"] = length = buffer.numel()
    side = int(length**0.5) + 1
    buffer.resize_(side * side)
    buffer[length:].fill_(0)
    seen["square"] = buffer.view(side, side).t().t().numel()
    return done(buffer.resize_(length))
