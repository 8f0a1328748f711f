"""Hooks that do on the device what hooks may do, and what they must not."""

import threading
import time

import torch
import torch.distributed as dist


def _api(tensor):
    return getattr(torch, tensor.device.type)


def _done(tensor, *devices):
    future = torch.futures.Future(devices=[d for d in devices if d.type != "cpu"])
    future.set_result(tensor)
    return future


def doubled(state, bucket):
    """Computes where it is called, in new memory; its future knows no device."""
    return _done(bucket.buffer() * 2)


def doubled_elsewhere(state, bucket):
    """Computes on a stream of its own, as a hook may; its future knows when it is done."""
    if bucket.buffer().device.type == "cpu":
        return _done(bucket.buffer() * 2)
    api = _api(bucket.buffer())
    mine = api.Stream(bucket.buffer().device)
    mine.wait_stream(api.current_stream(bucket.buffer().device))
    with api.stream(mine):
        bucket.buffer().record_stream(mine)
        return _done(bucket.buffer() * 2, bucket.buffer().device)


def by_a_thread(state, bucket):
    """A thread completes its future, on a stream of its own, later than its last collective."""
    buffer = bucket.buffer()
    api = _api(buffer)
    future = torch.futures.Future(devices=[buffer.device])
    called = api.current_stream(buffer.device).record_event()

    def complete():
        time.sleep(0.05)
        mine = api.Stream(buffer.device)
        with api.stream(mine):
            mine.wait_event(called)
            future.set_result(buffer * 2)

    threading.Thread(target=complete).start()
    return future


def waits_elsewhere(state, bucket):
    """Waits for a callback on a stream of its own."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    future = work.get_future().then(lambda done: done.value()[0] * 3)
    api = _api(bucket.buffer())
    with api.stream(api.Stream()):
        future.wait()
    return future


def strided(state, bucket):
    """A result that is every second element of its memory, from a callback's stream."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: torch.stack([done.value()[0] * 3] * 2, 1)[:, 0])


def tripled(state, bucket):
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0] * 3)


def twice(state, bucket):
    """Collectives in callbacks, two levels deep."""
    first = dist.all_reduce(bucket.buffer(), async_op=True).get_future()

    def again(done):
        half = done.value()[0].div_(2)
        return dist.all_reduce(half, async_op=True).get_future().wait()[0]

    return first.then(again).then(lambda done: done.value() + 1)


def drops(state, bucket):
    """Drops the work: PyTorch's own would read too early."""
    dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)
    return _done(bucket.buffer(), bucket.buffer().device)


def mean(state, bucket):
    """Reads an all_gather's future as NCCL makes it: one tensor of all ranks."""
    outputs = [torch.empty_like(bucket.buffer()) for _ in range(dist.get_world_size())]
    work = dist.all_gather(outputs, bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0].mean(0))


def mean_of_list(state, bucket):
    """The same, of what simccl's future holds."""
    outputs = [torch.empty_like(bucket.buffer()) for _ in range(dist.get_world_size())]
    work = dist.all_gather(outputs, bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: torch.stack(done.value()).mean(0))


def synchronizes(state, bucket):
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    work.wait()
    _api(bucket.buffer()).synchronize()
    return _done(bucket.buffer(), bucket.buffer().device)


def in_callback(state, bucket):
    """An error that cannot be pickled, in a callback."""

    class Odd(Exception):
        pass

    def callback(done):
        raise Odd("in a callback")

    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(callback)


def raises(state, bucket):
    bucket.buffer().fill_(5)
    raise ValueError("on the device")


def raises_under_way(state, bucket):
    dist.all_reduce(bucket.buffer(), async_op=True)
    raise ValueError("on the device")


def raises_on_one(state, bucket):
    """Fails where another rank has a collective under way, which then fails on its device."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    if dist.get_rank() == 1:
        raise ValueError("on one")
    return work.get_future().then(lambda done: done.value()[0])


spoilt = []


def spoils_once(state, bucket):
    """Its first callback on rank 1 writes to the bucket on a stream of torch's, late, and raises."""
    buffer = bucket.buffer().div_(dist.get_world_size())

    def callback(done):
        if dist.get_rank() == 1 and not spoilt:
            spoilt.append(done.value()[0].mul_(9))
            raise ValueError("spoilt")
        return done.value()[0]

    return dist.all_reduce(buffer, async_op=True).get_future().then(callback)


def on_the_cpu(state, bucket):
    return _done(bucket.buffer().cpu())


def other_device(state, bucket):
    return _done(bucket.buffer().to("sim:1"), torch.device("sim:1"))


def out_of_memory(state, bucket):
    return _done(torch.empty(2**34, device="sim"), bucket.buffer().device)


def fails_there(state, bucket):
    """What is wrong shows when the device gets to it."""
    bucket.buffer().take(torch.full((1,), 2**40, dtype=torch.int64, device="sim"))
    return _done(bucket.buffer(), bucket.buffer().device)


called = []


def counted(state, bucket):
    def note(done):
        called.append(bucket.index())
        return done.value()[0]

    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(note)


def calls():
    return len(called)


def half_in_place(state, bucket):
    """A result of half precision in the bucket's own memory, from its start on."""
    buffer = bucket.buffer()

    def narrow(done):
        half = buffer.view(torch.float16)[: buffer.numel()]
        half.copy_(buffer.to(torch.float16))
        return half

    return dist.all_reduce(buffer, async_op=True).get_future().then(narrow)


class Means:
    """A hook's state: of each bucket a mean over steps.

    Args:
        lengths: of buckets whose means begin on the device as zeros.
        in_place: ``load_state_dict`` writes to the tensors that there are.
        copies: ``state_dict`` shows copies, which it makes on the stream that it is called on.
    """

    def __init__(self, lengths=(), in_place=False, copies=False):
        self.in_place, self.copies = in_place, copies
        device = "cuda" if torch.cuda.is_available() else "sim"
        self.of = {i: torch.zeros(n, device=device) for i, n in enumerate(lengths)}

    def state_dict(self):
        return {"of": {i: mean.clone() if self.copies else mean for i, mean in self.of.items()}}

    def load_state_dict(self, state):
        if not self.in_place:
            self.of = state["of"]
            return
        for index, mean in state["of"].items():
            self.of[index].copy_(mean)


def averaged(state, bucket):
    """Puts another tensor into its state at each call."""
    mean = state.of.get(bucket.index())
    new = bucket.buffer() * 1 if mean is None else mean * 0.5 + bucket.buffer()
    state.of[bucket.index()] = new
    return _done(new, bucket.buffer().device)


def averaged_in_place(state, bucket):
    """Writes to the tensors of its state."""
    mean = state.of.setdefault(bucket.index(), torch.zeros_like(bucket.buffer()))
    mean.mul_(0.5).add_(bucket.buffer())
    return _done(mean, bucket.buffer().device)


def averaged_to_the_bucket(state, bucket):
    """The same, and writes the mean to its bucket."""
    mean = averaged_in_place(state, bucket).value()
    return _done(bucket.buffer().copy_(mean), bucket.buffer().device)


def of_parameters(state, bucket):
    """The parameters' values, which it reads on the device."""
    return _done(torch.cat([p.detach().reshape(-1) for p in bucket.parameters()]))


class Values:
    """A hook's state: the values that the parameters have when it is made.

    Args:
        device: where they must be.
    """

    def __init__(self, parameters, device):
        wrong = [p.device for p in parameters if p.device != torch.device(device)]
        if wrong:
            raise ValueError(f"parameters on {wrong} and not on {device}")
        self.of = {id(p): p.detach().clone().reshape(-1) for p in parameters}


def of_values(state, bucket):
    """The values that the parameters had."""
    return _done(torch.cat([state.of[id(p)] for p in bucket.parameters()]))


written = []


class Written:
    """A state that has the default stream write what ``is_written`` returns, which is new memory."""

    def __init__(self, value):
        written[:] = [torch.full((1000,), float(value), device="sim")]


def is_written(state, bucket):
    return _done(written[0] * 1 if written else bucket.buffer(), bucket.buffer().device)


class Counts:
    """A hook's state: what the device has counted before each call."""

    def __init__(self):
        self.of = []


def uncounted(counts, bucket):
    """Fails where bytes went by the host, or something waited, since its first step.

    Its result is of half precision, in memory of its own.
    """
    counters = torch.sim.counters()
    counts.of.append([int(counters[name]) for name in ("from_host", "to_host", "waits")])
    if len(counts.of) > 4 and counts.of[3] != counts.of[-1]:
        raise ValueError(f"by the host: {counts.of}")
    half = bucket.buffer().to(torch.float16)
    return dist.all_reduce(half, async_op=True).get_future().then(lambda done: done.value()[0])
