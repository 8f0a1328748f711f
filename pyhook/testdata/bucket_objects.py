"""One list of probes for the bucket that Go calls with and the one of pip users."""

import copy
import gc
import inspect
import pickle
import weakref

import torch
import torch.distributed as dist
from pyhook._runtime.bucket import Bucket, BucketMethods, new_bucket
from sample import done


def raised(f):
    try:
        f()
    except Exception as e:
        return type(e).__name__
    return "nothing"


def values(x):
    return [values(y) for y in x] if isinstance(x, list) else x.tolist()


def legacy(b):
    names = [
        "get_index",
        "get_tensor",
        "get_tensors",
        "get_per_parameter_tensors",
        "is_the_last_bucket_to_allreduce",
    ]
    first = [str(getattr(b, name)()) for name in names]
    b.set_tensor(torch.ones(2))
    return first, b.buffer().tolist(), sorted(b._layout.legacy_names)


def set_buffer(b):
    kept = b._layout.tensor
    b.set_buffer(torch.ones(4, dtype=torch.float16))
    seen = b.buffer().dtype, repr(b), values(b.gradients()), new_bucket(b._layout).buffer()
    return str(seen[:3]), seen[3] is kept


def deleted(b):
    before = raised(lambda: delattr(b, "nothing"))
    del b._buffer, b._layout
    uses = [b.buffer, b.index, b.gradients, lambda: repr(b), lambda: delattr(b, "_buffer")]
    return before, [raised(use) for use in uses]


def cycle(b):
    class Kept:
        pass

    other = Kept()
    other.bucket = b
    b._buffer = other
    gone = weakref.ref(b)
    alive = gone() is b
    return alive, gone, weakref.ref(other)


PROBES = {
    "is a GradBucket": lambda b: (
        isinstance(b, dist.GradBucket),
        isinstance(b, Bucket),
        isinstance(b, BucketMethods),
        b.__class__ is Bucket,
        isinstance(b, dist.Store),
    ),
    "type": lambda b: (type(b).__name__, type(b).__module__, type(b).__qualname__),
    "what there is": lambda b: [n for n in dir(b) if n not in dir(object)],
    "docs": lambda b: [inspect.getdoc(getattr(b, n)) for n in ("buffer", "index", "set_buffer")],
    "buffer": lambda b: (b.buffer() is b.buffer() is b._layout.tensor, raised(lambda: b.buffer(1))),
    "place": lambda b: (b.index(), b.is_last()),
    "gradients": lambda b: (values(b.gradients()), b.gradients() is b.gradients()),
    "parameters": lambda b: [tuple(p.shape) for p in b.parameters()],
    "the same parameters": lambda b: [
        p is q for p, q in zip(b.parameters(), new_bucket(b._layout).parameters())
    ],
    "repr": repr,
    "str": str,
    "set_buffer": set_buffer,
    "legacy names": legacy,
    "no other attributes": lambda b: (
        raised(lambda: setattr(b, "mine", 1)),
        raised(lambda: setattr(b, "buffer", 1)),
        hasattr(b, "__dict__"),
    ),
    "deleted attributes": deleted,
    "pickle and copy": lambda b: (
        raised(lambda: pickle.dumps(b)),
        raised(lambda: copy.copy(b)),
        raised(lambda: copy.deepcopy(b)),
    ),
    "identity": lambda b: (b == b, b == new_bucket(b._layout), hash(b) == hash(b), bool(b)),
    "no constructor": lambda b: raised(lambda: b.__class__()),
    "weak references": lambda b: weakref.ref(b)() is b,
}


def names():
    return list(PROBES)


def probe(name):
    """A hook that probes its own bucket, and then one of Python's class."""

    def hook(state, bucket):
        layout = bucket._layout
        results = []
        for b in (bucket, new_bucket(layout)):
            layout.legacy_names.clear()
            results.append(repr(PROBES[name](b)))
        layout.legacy_names.clear()
        assert type(bucket) is not Bucket
        assert results[0] == results[1], results
        return done(layout.tensor)

    return hook


gone = []


def in_a_cycle(state, bucket):
    tensor = bucket.buffer()
    alive, *refs = cycle(bucket)
    assert alive
    gone.extend(refs)
    return done(tensor)


def still_there():
    gc.collect()
    there = [ref() is not None for ref in gone]
    gone.clear()
    return there


kept = []


def keep(state, bucket):
    kept.append(bucket)
    bucket.set_buffer(torch.full((4,), float(len(kept))))
    return done(bucket._layout.tensor)


def kept_values():
    out = [b.buffer().tolist()[0] for b in kept]
    distinct = len({id(b) for b in kept})
    kept.clear()
    return out, distinct


def to_cpp(state, bucket):
    """C++'s own method refuses a bucket that it did not make."""
    assert raised(lambda: dist.GradBucket.index(bucket)) == "TypeError"
    assert raised(lambda: setattr(bucket, "__class__", dict)) in ("AttributeError", "TypeError")
    return done(bucket.buffer())


refs = []


def weakly(state, bucket):
    refs.append(weakref.ref(bucket))
    return done(bucket.buffer())


def weakly_alive():
    """Which of the buckets of weakly are still there, and how many there were."""
    out = [ref() is not None for ref in refs]
    refs.clear()
    return any(out), len(out)


class OtherTensor(torch.Tensor):
    pass


def other_class(tensor):
    tensor.__class__ = OtherTensor


changes = {
    "unsqueeze_": lambda tensor: tensor.unsqueeze_(0),
    "requires_grad_": lambda tensor: tensor.requires_grad_(),
    "__class__": other_class,
    "rename_": lambda tensor: tensor.rename_("n") if hasattr(tensor, "rename_") else None,
}
seen = []


def changed_late(name):
    """A hook that changes the buffer's metadata, in place, in its 70th call."""
    seen.clear()

    def hook(state, bucket):
        tensor = bucket.buffer()
        named = hasattr(tensor, "has_names") and tensor.has_names()
        seen.append([tensor.dim(), tensor.requires_grad, type(tensor) is torch.Tensor, named])
        if len(seen) == 70:
            changes[name](tensor)
        return done(tensor)

    return hook


def seen_metadata():
    return seen
