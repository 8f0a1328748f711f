"""Hooks that break the contract, each in its own way. mend() makes them good."""

import concurrent.futures
import functools
import threading
import weakref

import torch
import torch.distributed as dist
from sample import done, doubled
from torch._subclasses.fake_tensor import FakeTensorMode

mended = False


def mend(yes):
    global mended
    mended = yes


def faulty(hook):
    @functools.wraps(hook)
    def call(state, bucket):
        return doubled(state, bucket) if mended else hook(state, bucket)

    return call


def gives(name, make):
    """A hook that returns make(buffer)."""

    def hook(state, bucket):
        return make(bucket.buffer())

    hook.__name__ = hook.__qualname__ = name
    globals()[name] = faulty(hook)


async def coroutine():
    return None


def then_raises(buffer, depth=1):
    def boom(future):
        raise ValueError("boom in then")

    future = done(buffer).then(boom)
    for _ in range(depth - 1):
        future = future.then(lambda parent: parent.value())
    return future


def failed(error):
    future = torch.futures.Future()
    future.set_exception(error)
    return future


def on_thread(act):
    future = torch.futures.Future()
    threading.Timer(0.02, lambda: act(future)).start()
    return future


class Unprintable(Exception):
    def __str__(self):
        raise KeyError("no text")


def throw(error):
    raise error


gives("returns_none", lambda buffer: None)
gives("returns_int", lambda buffer: 7)
gives("returns_tensor", lambda buffer: buffer)
gives("returns_work", lambda buffer: dist.all_reduce(buffer.clone(), async_op=True))
gives("returns_coroutine", lambda buffer: coroutine())
gives("returns_concurrent_future", lambda buffer: concurrent.futures.Future())
gives("returns_class", lambda buffer: torch.futures.Future)
gives("returns_generator", lambda buffer: (x for x in ()))
gives("returns_list", lambda buffer: [done(buffer)])
gives("returns_function", lambda buffer: done)
gives("future_of_none", lambda buffer: done(None))
gives("future_of_list", lambda buffer: done([buffer, buffer]))
gives("future_of_tuple", lambda buffer: done((buffer, buffer)))
gives("future_of_empty_list", lambda buffer: done([]))
gives("future_of_nested_list", lambda buffer: done([[buffer]]))
gives("future_of_int", lambda buffer: done(3))
gives("future_of_array", lambda buffer: done(buffer.numpy()))
gives("future_of_short", lambda buffer: done(buffer[:3]))
gives("future_of_offset_short", lambda buffer: done(buffer[1:]))
gives("future_of_sparse", lambda buffer: done(buffer.to_sparse()))
gives("future_of_meta", lambda buffer: done(torch.empty(5, device="meta")))
gives("future_of_complex", lambda buffer: done(buffer.to(torch.complex64)))
gives(
    "future_of_real_view",
    lambda buffer: dist.all_reduce(buffer.to(torch.complex64), async_op=True)
    .get_future()
    .then(lambda f: f.value()[0]),
)
gives("future_of_future", lambda buffer: done(done(buffer)))
gives("future_of_exception", lambda buffer: done(ValueError("boom as a value")))
gives("raises", lambda buffer: throw(ValueError("boom in the hook")))
gives("raises_system_exit", lambda buffer: throw(SystemExit(3)))
gives("raises_keyboard_interrupt", lambda buffer: throw(KeyboardInterrupt()))
gives("raises_unprintable", lambda buffer: throw(Unprintable()))
gives("raises_in_then", then_raises)
gives("raises_in_nested_then", lambda buffer: then_raises(buffer, depth=4))
gives("exits_in_then", lambda buffer: done(buffer).then(lambda _: throw(SystemExit(3))))
gives("sets_exception", lambda buffer: failed(ValueError("boom by set_exception")))
gives(
    "sets_exception_before_then",
    lambda b: failed(ValueError("boom")).then(lambda f: f.value()),
)
gives(
    "fails_on_a_thread",
    lambda b: on_thread(lambda f: f.set_exception(ValueError("late boom"))),
)
gives(
    "fails_in_then_on_a_thread",
    lambda b: on_thread(lambda f: f.set_result(b)).then(lambda f: 1 / 0),
)
gives("none_on_a_thread", lambda b: on_thread(lambda f: f.set_result(None)))


def nested(buffer):
    make = torch.nested.nested_tensor if hasattr(torch, "nested") else torch.nested_tensor
    return make([buffer[:2].clone(), buffer[2:].clone()])


def escaped(buffer):
    """A tensor of a vmap that is over."""
    vmap = torch.vmap if hasattr(torch, "vmap") else torch._vmap_internals.vmap
    out = []
    vmap(lambda row: out.append(row) or row)(buffer.clone().view(1, -1))
    return out[0]


def freed(buffer):
    """A tensor whose memory was given back, as FSDP does."""
    tensor = buffer.clone()
    storage = getattr(tensor, "untyped_storage", tensor.storage)()
    storage.resize_(0)
    return tensor


def fake(buffer):
    return FakeTensorMode().from_tensor(buffer.clone())


class Raising(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *args, **kwargs):
        raise ValueError("boom in __torch_function__")


class Wrapper(torch.Tensor):
    @staticmethod
    def __new__(cls, size):
        return torch.Tensor._make_wrapper_subclass(cls, (size,))

    @classmethod
    def __torch_dispatch__(cls, *args, **kwargs):
        raise ValueError("boom in __torch_dispatch__")


class Liar:
    __class__ = torch.Tensor


gives("future_of_text", lambda b: done("reduced"))
gives("future_of_dict", lambda b: done({"result": b}))
gives("future_of_bytes", lambda b: done(b.numpy().tobytes()))
gives("future_of_numpy_scalar", lambda b: done(b.numpy()[0]))
gives("future_of_storage", lambda b: done(b.storage()))
gives("future_of_the_class", lambda b: done(torch.Tensor))
gives("future_of_work", lambda b: done(dist.all_reduce(b.clone(), async_op=True)))
gives("future_of_liar", lambda b: done(Liar()))
gives("future_of_dead_proxy", lambda b: done(weakref.proxy(b.clone())))
gives("future_of_scalar", lambda b: done(torch.tensor(1.0)))
gives("future_of_empty", lambda b: done(torch.empty(0)))
gives("future_of_csr", lambda b: done(b.view(1, -1).to_sparse_csr()))
gives("future_of_hybrid_sparse", lambda b: done(b.view(5, 1).to_sparse(1)))
gives("future_of_mkldnn", lambda b: done(b.view(1, -1).to_mkldnn()))
gives("future_of_quantized", lambda b: done(quantized(b)))
gives("future_of_nested", lambda b: done(nested(b)))
gives("future_of_fake", lambda b: done(fake(b)))
gives("future_of_escaped", lambda b: done(escaped(b)))
gives("future_of_freed", lambda b: done(freed(b)))
gives("future_of_raising", lambda b: done(b.clone().as_subclass(Raising)))
gives("future_of_wrapper", lambda b: done(Wrapper(5)))
gives(
    "future_of_uninitialized",
    lambda b: done(torch.nn.parameter.UninitializedParameter()),
)


def quantized(buffer):
    return torch.quantize_per_tensor(buffer, 0.5, 0, torch.qint8)


def resizes_and_raises(state, bucket):
    bucket.buffer().resize_(2)
    raise ValueError("boom")


def swaps_data_and_returns_none(state, bucket):
    bucket.buffer().data = torch.zeros(5)


def resizes_and_fails(state, bucket):
    bucket.buffer().resize_(2)
    return failed(ValueError("boom"))


for each in (resizes_and_raises, swaps_data_and_returns_none, resizes_and_fails):
    globals()[each.__name__] = faulty(each)

# What cannot be loaded.
a_number = 3


def one_argument(bucket):
    return done(bucket.buffer())


async def an_async_def(state, bucket):
    return done(bucket.buffer())


def a_generator(state, bucket):
    yield done(bucket.buffer())


def needs_rank(matrix_rank):
    return matrix_rank
