"""Hooks that fuzzed bytes write, and what torch itself reads in their results."""

import ctypes
import threading

import torch
import torch.distributed as dist
from sample import done

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
]


MOST = 1 << 16
"""Elements of a tensor: a program that doubles it 30 times only costs time."""

NOTHING = object()
"""In place of a value that must be refused."""


class Sub(torch.Tensor):
    """A subclass that changes nothing."""


class Reader:
    """Small numbers out of bytes; 0 at their end."""

    def __init__(self, program):
        self.rest = list(program)

    def __call__(self, below):
        return self.rest.pop(0) % below if self.rest else 0


class Step:
    """What one call of the hook has in hands."""

    def __init__(self, bucket, r):
        self.bucket, self.buffer, self.r = bucket, bucket.buffer(), r
        self.t = self.buffer

    def sizes(self):
        dims = self.r(3)
        return [self.r(8) for _ in range(dims)], [self.r(6) for _ in range(dims)], self.r(8)

    def dtype(self):
        return DTYPES[self.r(len(DTYPES))]


def has_names(t):
    return getattr(t, "has_names", bool)()  # torch 2.15 has no names


def set_data(s, t):
    s.buffer.data = t
    return s.t


def set_view_data(s, i, dtype):
    view = s.bucket.gradients()[i]
    view.data = view.view(dtype)


def set_class(s):
    s.buffer.__class__ = Sub
    return s.t


def set_buffer(s):
    s.bucket.set_buffer(s.t)
    return s.bucket.buffer()


def then_t(t):
    """Acts on the buffer, and goes on with what was in hand."""
    return lambda s: (t(s), s.t)[1]


VALUES = [
    lambda s: s.t * 2,
    lambda s: s.t[s.r(4) :: s.r(3) + 1],
    lambda s: s.t.flip(0),
    lambda s: s.t.reshape(-1, s.r(4) + 1),
    lambda s: s.t.view(s.r(4) + 1, -1),
    lambda s: s.t.transpose(0, -1),
    lambda s: s.t.unsqueeze(s.r(3)),
    lambda s: s.t.expand(s.r(4), *s.t.shape),
    lambda s: s.t.as_strided(*s.sizes()),
    lambda s: s.t.to(s.dtype()),
    lambda s: s.t.view(s.dtype()),
    lambda s: torch.cat([s.t.flatten(), s.t.flatten()]),
    lambda s: torch.stack([s.t, s.t * 0], s.r(3)),
    lambda s: s.t.select(s.r(2), s.r(3)),
    lambda s: s.t.detach(),
    lambda s: s.t.clone(),
    lambda s: s.t.clone().requires_grad_(),
    lambda s: s.t.clone().requires_grad_() * 3,
    lambda s: torch.nn.Parameter(s.t),
    lambda s: s.t.conj(),
    lambda s: torch._neg_view(s.t),
    lambda s: s.t.imag,
    lambda s: torch.view_as_real(s.t),
    lambda s: torch.view_as_complex(s.t.reshape(-1, 2)),
    lambda s: s.t.rename("a"),
    lambda s: s.t.as_subclass(Sub),
    lambda s: s.t.numpy(),
    lambda s: s.bucket.gradients()[s.r(2)],
    lambda s: s.bucket.parameters()[s.r(2)],
    lambda s: s.t.storage(),
    set_buffer,
]

BUFFERS = [
    lambda s: s.buffer.mul_(s.r(5) - 1),
    lambda s: s.buffer.copy_(s.t.flatten()[: s.buffer.numel()]),
    lambda s: s.buffer.resize_(s.r(12)),
    lambda s: s.buffer.resize_(s.r(4), s.r(3)),
    lambda s: s.buffer.set_(s.t),
    lambda s: set_data(s, s.t),
    lambda s: set_data(s, s.buffer.view(s.dtype())),
    lambda s: s.buffer.unsqueeze_(0),
    lambda s: s.buffer.transpose_(0, -1),
    lambda s: s.buffer.as_strided_(*s.sizes()),
    lambda s: s.buffer.requires_grad_(),
    lambda s: s.buffer.rename_("a"),
    lambda s: s.bucket.gradients()[0].mul_(3),
    lambda s: s.bucket.gradients()[1].t_(),
    lambda s: s.bucket.gradients()[0].requires_grad_(),
    lambda s: set_view_data(s, s.r(2), s.dtype()),
    lambda s: setattr(s.buffer, "mark", 1),
    set_class,
]

OPERATIONS = VALUES + [then_t(f) for f in BUFFERS]


def on_thread(value):
    future = torch.futures.Future()
    threading.Thread(target=lambda: future.set_result(value)).start()
    return future


def failed(error):
    future = torch.futures.Future()
    future.set_exception(error)
    return future


def throw(error):
    raise error


def quantized(value):
    return torch.quantize_per_tensor(value.float(), 0.5, 0, torch.qint8)


def then_throw(value):
    return done(value).then(lambda f: throw(ValueError("boom")))


def reduced(value):
    return dist.all_reduce(value, async_op=True).get_future()


def reduced_value(v):
    """gloo reduces complex numbers as pairs of real ones, and gives those back.

    Some dtypes it refuses, at once or in the future.
    """
    try:
        dist.all_reduce(v.clone())
    except RuntimeError:
        return NOTHING
    complex_ = isinstance(v, torch.Tensor) and v.dtype.is_complex
    return torch.view_as_real(v) if complex_ else v


# How a value comes back, and which value then counts.
ENDS = [
    (done, lambda v: v),
    (lambda v: done(v).then(lambda f: f.value()), lambda v: v),
    (on_thread, lambda v: v),
    (lambda v: on_thread(v).then(lambda f: f.value()), lambda v: v),
    (lambda v: done([v]), lambda v: v),
    (lambda v: done((v,)), lambda v: v),
    (reduced, reduced_value),
    (lambda v: done([v, v]), lambda v: NOTHING),
    (lambda v: torch.futures.collect_all([done(v)]), lambda v: NOTHING),
    (lambda v: done(None), lambda v: NOTHING),
    (lambda v: done({"a": v}), lambda v: NOTHING),
    (lambda v: done(3.5), lambda v: NOTHING),
    (lambda v: done(ValueError("boom")), lambda v: NOTHING),
    (lambda v: done(done(v)), lambda v: NOTHING),
    (lambda v: failed(ValueError("boom")), lambda v: NOTHING),
    (then_throw, lambda v: NOTHING),
    (lambda v: v, lambda v: NOTHING),
    (lambda v: None, lambda v: NOTHING),
    # Only as results: torch itself crashes on some of what could follow.
    (lambda v: done(v.to_sparse()), lambda v: NOTHING),
    (lambda v: done(v.to_mkldnn()), lambda v: NOTHING),
    (lambda v: done(v.to("meta")), lambda v: NOTHING),
    (lambda v: done(quantized(v)), lambda v: NOTHING),
    (lambda v: throw(ValueError("boom")), lambda v: NOTHING),
]

given = {}
expected = {}


def begin(program, address, size):
    given.update(program=program, address=address, size=size)
    expected.clear()
    expected.update(ok=False, dtype="", result=b"", why="it raised", memory=memory())


def memory():
    """The trainer's memory, as bytes."""
    return ctypes.string_at(given["address"], given["size"])


def outcome():
    return dict(expected)


def hook(state, bucket):
    r = Reader(given["program"])
    end, counts = ENDS[r(len(ENDS))]
    step = Step(bucket, r)
    numel = step.buffer.numel()
    try:
        while r.rest:
            step.t = OPERATIONS[r(len(OPERATIONS))](step)
            if isinstance(step.t, torch.Tensor) and step.t.numel() > MOST:
                raise OverflowError(f"{step.t.numel()} elements")
        value = counts(step.t)
        expected["why"] = "it raised in the end"
        future = end(step.t)
        expect(value, numel)
    finally:
        expected["memory"] = memory()
    return future


def expect(value, numel):
    """Notes what torch's own copy makes of a value, or why it is no result."""
    why = objection(value, numel)
    expected["why"] = why
    if why:
        return
    value, dtype = value.detach(), str(value.dtype)
    if has_names(value):
        value = value.rename(None)
    # Not flatten: a copy element by element into memory that is surely plain.
    flat = torch.empty(value.shape, dtype=value.dtype).copy_(value).view(-1)[:numel]
    raw = ctypes.string_at(flat.data_ptr(), numel * flat.element_size()) if numel else b""
    expected.update(ok=True, dtype=dtype, result=raw)


def objection(value, numel):
    if not isinstance(value, torch.Tensor):
        return "no tensor"
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        return "no plain memory"
    if value.numel() < numel:
        return "short"
    if value.dtype.is_complex:
        return "complex"
    return ""


seen = {}


def look_at():
    return dict(seen)


def look(state, bucket):
    """A hook that sees what the next step would see."""
    b, gradients = bucket.buffer(), bucket.gradients()
    seen.update(
        type=type(b).__name__,
        shape=list(b.shape),
        stride=list(b.stride()),
        dtype=str(b.dtype),
        grad=b.requires_grad,
        named=has_names(b),
        address=b.data_ptr(),
        gradients=[list(g.shape) for g in gradients],
        views=[[str(g.dtype), g.requires_grad] for g in gradients],
    )
    return done(b)
