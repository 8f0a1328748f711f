"""Hooks that keep things between body and callback, ask futures, and issue in callbacks."""

import time

import torch
import torch.distributed as dist


def chained(state, bucket):
    """Averages in three collectives, each issued in the callback of the one before."""
    world = dist.get_world_size()

    def again(future):
        return dist.all_reduce(future.value()[0].div_(world), async_op=True).get_future().wait()

    first = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return first.then(again).then(again).then(lambda future: future.value()[0].div_(world))


class State:
    """What quantised keeps between its body and its callback."""

    scale = None


def quantised(state, bucket):
    """Right where the callback runs before the next bucket's call, as on NCCL."""
    n, b = dist.get_world_size(), bucket.buffer()
    state.scale = b.abs().max()
    dist.all_reduce(state.scale, op=dist.ReduceOp.MAX)
    q = (b / state.scale * 1000).round().to(torch.int32)
    future = dist.all_reduce(q, async_op=True).get_future()
    return future.then(lambda f: f.value()[0].float() * state.scale / 1000 / n)


def independent(state, bucket):
    """As quantised, with nothing that another call changes; it says so."""
    return quantised(State(), bucket)


independent.pyhook_order = "ordered"


def mean(state, bucket):
    """What the hooks below compute, in one collective."""
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda f: f.value()[0] / dist.get_world_size())


def done(value):
    future = torch.futures.Future()
    future.set_result(value)
    return future


def halves(bucket):
    """The mean, as futures of two halves, each of a second collective in a callback."""
    world = dist.get_world_size()

    def again(f):
        return dist.all_reduce(f.value()[0] / world, async_op=True).get_future().wait()[0] / world

    parts = bucket.buffer().chunk(2)
    return [dist.all_reduce(part, async_op=True).get_future().then(again) for part in parts]


def polls_done(state, bucket):
    time.sleep(0.001 * dist.get_rank())
    parts = halves(bucket)
    while not all([part.done() for part in parts]):
        time.sleep(0.001)
    return done(torch.cat([part.value() for part in parts]))


def polls_collect_all(state, bucket):
    both = torch.futures.collect_all(halves(bucket))
    while not both.done():
        time.sleep(0.001)
    return done(torch.cat([part.value() for part in both.value()]))


def polls_a_flag(state, bucket):
    parts, flags = halves(bucket), []
    for part in parts:
        part.add_done_callback(flags.append)
    while len(flags) < 2:
        time.sleep(0.001)
    return done(torch.cat([part.wait() for part in parts]))


def polls_its_own_future(state, bucket):
    own = torch.futures.Future()
    torch.futures.collect_all(halves(bucket)).then(
        lambda f: own.set_result(torch.cat([part.value() for part in f.value()]))
    )
    child = own.then(lambda f: f.value().clone())
    while not own.done():
        time.sleep(0.001)
    return done(child.wait())


def reads_the_value(state, bucket):
    parts = halves(bucket)
    return done(torch.cat([part.value() for part in reversed(parts)][::-1]))


def waits_for_its_own_work(state, bucket):
    work = dist.all_reduce(bucket.buffer(), async_op=True)

    def callback(f):
        work.wait()
        return f.value()[0] / dist.get_world_size()

    return work.get_future().then(callback)


def completes_with_the_last(state, bucket):
    """All buckets' futures are completed in the last bucket's callback."""
    future = torch.futures.Future()
    state.append((bucket.buffer(), future))
    if bucket.is_last():

        def complete(f):
            whole = f.value()[0] / dist.get_world_size()
            sizes = [buffer.numel() for buffer, _ in state]
            for (_, one), part in zip(state, whole.split(sizes)):
                one.set_result(part)
            state.clear()

        whole = torch.cat([buffer for buffer, _ in state])
        dist.all_reduce(whole, async_op=True).get_future().then(complete)
    return future
