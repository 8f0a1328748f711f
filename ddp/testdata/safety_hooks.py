"""Hooks that damage their buckets, or write to them too late: see guards_test.go."""

import threading

import torch
import torch.distributed as dist
from hooks import done

bad = True
kept = {}
counts = {}
waiting = []


def be_bad(yes):
    global bad
    bad = yes
    for future in waiting:  # those of never_ends, whose buckets are kept until then
        if isinstance(future, torch.futures.Future):
            future.set_result(None)
    waiting.clear()


def forget():
    be_bad(True)
    kept.clear()


def calls(index):
    return counts.get(index, 0)


def damaging(end):
    """A hook that writes to every bucket, and whose end at bucket 1 is another."""

    def hook(state, bucket):
        buffer = bucket.buffer()
        kept[bucket.index()] = buffer
        counts[bucket.index()] = calls(bucket.index()) + 1
        if not bad:
            return done(buffer)
        buffer.fill_(-7)
        return end(buffer) if bucket.index() == 1 else done(buffer)

    return hook


def throws(buffer):
    raise ValueError("boom")


def reduces_and_throws(buffer):
    waiting.append(dist.all_reduce(buffer, async_op=True))
    raise ValueError("boom")


def fails(buffer):
    future = torch.futures.Future()
    threading.Timer(0.01, lambda: future.set_exception(ValueError("boom"))).start()
    return future


def never(buffer):
    waiting.append(torch.futures.Future())
    return waiting[-1]


raises = damaging(throws)
raises_after_a_collective = damaging(reduces_and_throws)
fails_later = damaging(fails)
is_short = damaging(lambda buffer: done(buffer[1:]))
never_ends = damaging(never)
is_good = damaging(done)


def damages_sparse(state, bucket):
    if bad:
        bucket.buffer()._values().fill_(-7)
        raise ValueError("boom")
    return done(bucket.buffer())


def write(index):
    """What a thread or a collective does that the hook's future does not wait for."""
    kept[index][0] += 1


def not_finite(state, bucket):
    """A result of bucket 1 with a NaN at element 2 and an infinity behind it."""
    result = bucket.buffer().double()
    if bad and bucket.index() == 1:
        result[2], result[3] = torch.nan, torch.inf
    return done(result)
