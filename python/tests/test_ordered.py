"""Futures that complete in one order on every rank, over real gloo ranks."""

import gc
import multiprocessing
import time
import weakref

import ordered_ranks
import pytest
import torch
import torch.distributed as dist

from pyhook import HookContractError, testing
from pyhook._runtime import patches, trace
from pyhook._runtime.chain import Chain
from pyhook._runtime.ordered_future import OrderedFuture
from pyhook._runtime.scope import scope

context = multiprocessing.get_context("forkserver")  # each rank has torch imported
context.set_forkserver_preload(["torch.distributed", "pyhook._meeting.join"])


def digests(tmp_path, name, mode, seed=0, world=2):
    results = context.Queue()
    path = str(tmp_path / f"store-{name}-{mode}-{seed}")
    ranks = [
        context.Process(
            target=ordered_ranks.run, args=(rank, world, path, name, mode, seed, results)
        )
        for rank in range(world)
    ]
    for rank in ranks:
        rank.start()
    got = dict(results.get(timeout=90) for _ in ranks)
    for rank in ranks:
        rank.join(30)
    return [got[rank] for rank in range(world)]


@pytest.mark.parametrize("name", ["chained", "waits", "collects", "powersgd"])
def test_ordered_ranks_agree_with_the_serial_run_bit_for_bit(tmp_path, name):
    serial = digests(tmp_path, name, "serial")
    assert len(set(serial)) == 1
    for seed in (1, 2):
        assert digests(tmp_path, name, "ordered", seed) == serial


@pytest.fixture
def chained(group):
    """chained(body) calls body as a hook; the chain, and what body returned."""
    patches.install()

    def call(body):
        chain = Chain(lambda state, bucket: body())
        return chain, chain(None, None)

    return call


def started():
    return dist.all_reduce(torch.ones(3), async_op=True).get_future()


def drain(chain):
    more = True
    while more:
        unfinished = chain.unfinished()
        if unfinished is not None:
            # Its outcome is not asked for.
            polled(unfinished.done)
        more = chain.advance()


def test_outside_a_chain_nothing_is_changed(group):
    patches.install()
    assert type(started()) is not OrderedFuture
    assert started().wait()[0].tolist() == [1, 1, 1]


def test_a_callback_runs_when_the_chain_advances_and_not_before(chained):
    ran = []
    chain, future = chained(lambda: started().then(lambda f: ran.append(f.value()[0].sum())))
    dist.barrier()
    assert not ran
    assert chain.advance() is False
    assert ran == [3]
    assert isinstance(future, torch._C.Future)
    assert torch._C.Future.done(future)


def test_each_level_of_callbacks_takes_an_advance(chained):
    chain, future = chained(lambda: started().then(lambda f: started()).then(lambda f: f.value()))
    assert chain.advance() is True
    assert chain.advance() is False
    assert future.value().value()[0].tolist() == [1, 1, 1]


def test_an_exception_in_a_callback_keeps_its_type(chained):
    def body():
        return started().then(lambda f: 1 / 0).then(lambda f: f.value())

    chain, future = chained(body)
    chain.advance()
    with pytest.raises(ZeroDivisionError):
        future.value()
    with pytest.raises(ZeroDivisionError):
        torch._C.Future.value(future)


def test_waiting_completes_what_is_waited_for_and_its_parents(chained):
    order = []

    def body():
        first = started()
        second = first.then(lambda f: order.append("second") or 2)
        third = second.then(lambda f: order.append("third") or f.value() + 1)
        assert third.wait() == 3
        return third

    chain, future = chained(body)
    assert order == ["second", "third"]
    assert chain.advance() is False
    assert future.value() == 3


def test_done_and_value_are_those_of_the_real_work(chained):
    def body():
        future = started()
        while not future.done():
            pass
        return future.value()[0]

    _, value = chained(body)
    assert value.tolist() == [1, 1, 1]


def polled(ask):
    """Ends when ask() is true, as a hook's loop does, and not after five seconds."""
    end = time.monotonic() + 5
    while not ask():
        assert time.monotonic() < end, "polled in vain"
        time.sleep(0.001)


def test_ordered_future_done_completes_what_has_callbacks(chained):
    def body():
        child = started().then(lambda f: f.value()[0])
        polled(child.done)
        return child.value()

    assert chained(body)[1].tolist() == [1, 1, 1]


def test_ordered_future_done_of_collect_all_completes(chained):
    def body():
        whole = torch.futures.collect_all([started().then(lambda f: 1), started()])
        polled(whole.done)
        return whole.value()[0].value()

    assert chained(body)[1] == 1


def test_ordered_future_add_done_callback_runs_at_once(chained):
    def body():
        flags = []
        started().add_done_callback(flags.append)
        polled(lambda: flags)
        return len(flags)

    assert chained(body)[1] == 1


def test_ordered_future_value_waits_for_parents(chained):
    def body():
        return started().then(lambda f: 2).then(lambda f: f.value() + 1).value()

    assert chained(body)[1] == 3


def test_plain_future_asked_in_a_hook_completes_the_chain(chained):
    def body():
        own = torch.futures.Future()
        started().then(lambda f: own.set_result(4))
        doubled = own.then(lambda f: 2 * f.value())
        polled(own.done)
        torch.futures.wait_all([own])
        return doubled.wait()

    assert chained(body)[1] == 8


def test_ordered_future_callbacks_run_in_the_order_in_which_they_were_given(chained):
    order = []

    def body():
        parts = [started().then(lambda f, i=i: order.append(i)) for i in range(4)]
        polled(lambda: sum(part.done() for part in parts) == 4)

    chained(body)
    assert order == [0, 1, 2, 3]


def test_collect_all_fails_with_one_of_its_futures_as_torchs_does(chained):
    def body():
        return torch.futures.collect_all([started().then(lambda f: 1 / 0), started()])

    chain, whole = chained(body)
    chain.advance()
    with pytest.raises(ZeroDivisionError):
        whole.value()


def test_chain_advance_reports_a_collective_that_failed_unseen(chained):
    def body():
        dist.all_reduce(torch.ones(3, dtype=torch.int16), async_op=True)
        return started().then(lambda f: f.value())

    chain, future = chained(body)
    with pytest.raises(HookContractError, match="all_reduce, which the hook issued") as error:
        drain(chain)
    assert error.value.code == "collective"
    assert torch._C.Future.done(future)


def test_chain_advance_waits_for_a_work_that_was_dropped(chained):
    tensor = torch.ones(1 << 20)

    def body():
        dist.all_reduce(tensor, async_op=True)

    chain, _ = chained(body)
    drain(chain)
    assert chain.unfinished() is None


def test_chain_keeps_nothing_alive_after_a_callback_failed(chained):
    class Held:
        pass

    def body():
        held = Held()
        alive.append(weakref.ref(held))

        def callback(future):
            try:
                future.value()
            finally:
                raise ValueError(held)

        plain = torch.futures.Future()
        plain.set_result(held)
        return plain.then(callback)

    alive = []
    chain, future = chained(body)
    assert chain.advance() is False
    del chain, future
    gc.collect()
    assert alive[0]() is None


def test_testing_run_lets_a_callback_wait_for_its_own_work(group):
    def hook(state, bucket):
        work = dist.all_reduce(bucket.buffer(), async_op=True)

        def callback(future):
            work.wait()
            return future.value()[0]

        return work.get_future().then(callback)

    assert testing.run(hook, None, testing.bucket([torch.ones(2)]), timeout=20).tolist() == [1, 1]


def test_unfinished_is_a_real_future_of_what_is_under_way(group):
    real = [torch.futures.Future(), torch.futures.Future()]
    chain = Chain(lambda state, bucket: None)
    for future in real:
        chain.ordered(future)
    whole = chain.unfinished()
    real[0].set_result([torch.ones(1)])
    assert not whole.done()
    real[1].set_result([torch.ones(1)])
    whole.wait()
    assert chain.unfinished() is None


def test_a_failed_collective_fails_its_future(chained):
    class Broken:
        def done(self):
            return True

        def wait(self):
            raise RuntimeError("peer is gone")

    chain = Chain(lambda state, bucket: None)
    child = chain.ordered(Broken()).then(lambda f: f.value())
    chain.advance()
    with pytest.raises(RuntimeError, match="peer is gone"):
        child.value()


def test_a_traced_hook_reports_every_collective(group):
    patches.install()
    said = []

    class Bucket:
        def index(self):
            return 7

    def hook(state, bucket):
        second = started().then(lambda f: started()).then(lambda f: f.value().wait()[0])
        dist.all_reduce(torch.ones(1))  # waited for in the call: a part of it
        return second

    traced = trace.TracedHook(hook, lambda *args: said.append(args))
    before = time.time_ns()
    chain = Chain(traced)
    future = chain(None, Bucket())
    while chain.advance():
        pass
    assert future.value().tolist() == [1, 1, 1]
    for _ in range(100):  # the second one's callback runs on a thread of gloo
        if len(said) == 2:
            break
        time.sleep(0.05)
    assert [(bucket, held) for bucket, _, _, held in said] == [(7, 12), (7, 12)]
    # The first one's end is told on gloo's thread, perhaps after the second has begun.
    (_, start, end, _), (_, later, last, _) = sorted(said, key=lambda one: one[1])
    assert before <= start <= min(end, later) <= max(end, later, last) <= time.time_ns()
    assert later <= last
    assert scope.tracer is None


def test_a_traced_collective_that_fails_has_no_bytes(group):
    patches.install()
    said = []
    failed = torch.futures.Future()
    trace._trace(lambda *args: said.append(args), 1, failed)
    failed.set_exception(RuntimeError("lost"))
    ((bucket, start, end, held),) = said
    assert (bucket, held) == (1, 0)
    assert start <= end
