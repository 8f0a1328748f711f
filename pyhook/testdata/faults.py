"""Hooks that break the contract, each in its own way. mend() makes them good."""

import concurrent.futures
import functools
import threading

import torch
import torch.distributed as dist
from sample import done, doubled

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
