"""Results of many layouts: functions of the flat buffer, and what is right."""

import torch
from sample import done


class Plain(torch.Tensor):
    """A subclass that changes nothing."""


def inferred(b):
    with torch.inference_mode():
        return b * 2


RESULTS = {
    "the buffer": lambda b: b,
    "the buffer, written in place": lambda b: b.mul_(3),
    "a new tensor": lambda b: b * 2,
    "a view of the buffer": lambda b: b[:],
    "the buffer as a column": lambda b: b.view(-1, 1),
    "the buffer as a row": lambda b: b.view(1, -1),
    "the buffer's memory, detached": lambda b: b.detach(),
    "an offset view": lambda b: torch.cat([torch.full((3,), -1.0), b * 2])[3:],
    "an offset view of a row": lambda b: torch.stack([b * 0, b * 2])[1:],
    "every second element": lambda b: torch.stack([b * 2, b * 0 - 1], 1).view(-1)[::2],
    "a column of a matrix": lambda b: torch.stack([b * 0 - 1, b * 2], 1)[:, 1],
    "a transposed matrix": lambda b: (
        (b[:4] * 2).view(2, 2).t().reshape(-1).repeat(2).view(2, 4).t()
    ),
    "one element, expanded": lambda b: torch.tensor([2.5]).expand(b.numel()),
    "the buffer's first element, expanded": lambda b: b[:1].expand(b.numel()),
    "the buffer, flipped": lambda b: b.flip(0),
    "the buffer, overlapping itself": lambda b: b.as_strided((b.numel(),), (0,), 1),
    "the buffer from the second on, and surplus": lambda b: torch.cat([b, b])[1:],
    "surplus elements": lambda b: torch.cat([b * 2, torch.full((4,), -1.0)]),
    "a scalar's shape, surplus in rows": lambda b: torch.stack([b * 2, b * 0]),
    "float16": lambda b: (b * 2).half(),
    "bfloat16": lambda b: (b * 2).bfloat16(),
    "float64": lambda b: (b * 2).double(),
    "int64": lambda b: (b * 2).long(),
    "uint8": lambda b: (b * 2).to(torch.uint8),
    "bool": lambda b: b > 2,
    "float16, offset and strided": lambda b: torch.stack([b * 0, b * 2], 1).half()[
        :, 1
    ],
    "requires grad": lambda b: (b * 2).requires_grad_(),
    "part of a graph": lambda b: (b * 2).requires_grad_() * 1.5,
    "a parameter": lambda b: torch.nn.Parameter(b * 2),
    "the buffer, requiring grad": lambda b: b.clone().requires_grad_(),
    "a lazily negated tensor": lambda b: torch._neg_view(b * 2),
    "an inference tensor": lambda b: inferred(b),
    "float16, negated lazily": lambda b: torch._neg_view((b * 2).half()),
    "a subclass of the tensor": lambda b: (b * 2).as_subclass(Plain),
    "a list of the tensor": lambda b: [b * 2],
    "a tuple of the buffer": lambda b: (b,),
}

IN_PLACE = {
    "data replaced": lambda b: replaced(b, b * 2),
    "data replaced by another dtype": lambda b: replaced(b, (b * 2).half()),
    "data replaced by another shape": lambda b: replaced(b, (b * 2).view(1, -1)),
    "data replaced by a strided view": lambda b: replaced(
        b, torch.stack([b * 2, b], 1)[:, 0]
    ),
    "set_ to other memory": lambda b: b.set_(b * 2),
    "set_ to an offset view": lambda b: b.set_(torch.cat([b * 0, b * 2])[b.numel() :]),
    "data replaced by its bits": lambda b: replaced(b, b.view(torch.int32)),
    "made its first element": lambda b: b.as_strided_((b.numel(),), (0,)),
    "requiring grad from now on": lambda b: b.requires_grad_(),
    "made a row": lambda b: b.unsqueeze_(0),
    "made a column": lambda b: b.unsqueeze_(1),
    "shrunk and grown again": lambda b: b.resize_(2).resize_(4),
}


def replaced(buffer, data):
    buffer.data = data
    return buffer


def make(name):
    """A hook whose future holds that result."""
    result = {**RESULTS, **IN_PLACE}[name]
    return lambda state, bucket: done(result(bucket.buffer()))


def make_other(name):
    """A hook that does that to the buffer and returns another tensor."""
    return lambda state, bucket: (IN_PLACE[name](bucket.buffer()), done(torch.ones(4)))[
        1
    ]


def right(name, values):
    """The first elements of the result, in row-major order, as floats."""
    result = {**RESULTS, **IN_PLACE}[name](torch.tensor(values))
    if isinstance(result, (list, tuple)):
        result = result[0]
    flat = result.detach().resolve_neg().contiguous().view(-1)
    return flat[: len(values)].float().tolist()


def flag(name):
    """Whether the buffer is as it should be when a hook sees it."""
    return seen[name]


def look(state, bucket):
    """The buffer that the next step sees."""
    b = bucket.buffer()
    seen.update(
        shape=list(b.shape),
        stride=list(b.stride()),
        dtype=str(b.dtype),
        address=b.data_ptr(),
        requires_grad=b.requires_grad,
    )
    return done(b)


seen = {}


def conj(state, bucket):
    return done(torch.conj(bucket.buffer()))


def conj_of_new(state, bucket):
    return done(torch.conj(bucket.buffer() * 2)[:])


def real_view(state, bucket):
    return done(torch.view_as_real(bucket.buffer()).view(-1))


def reals(state, bucket):
    return done(bucket.buffer().real.clone())


def conjugated(real, imaginary):
    value = torch.conj(
        torch.complex(torch.tensor(real), torch.tensor(imaginary))
    ).resolve_conj()
    return torch.view_as_real(value).view(-1).tolist()
