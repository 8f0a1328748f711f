"""The device itself: each function case_NAME is a case. Prints JSON: what failed, by case."""

import ctypes
import json
import os
import signal
import threading
import time
import traceback

import simdevice  # noqa: F401
import torch
import torch.distributed as dist

ELEMENTS = 1000


def full(value, **options):
    return torch.full((ELEMENTS,), float(value), device="sim", **options)


def is_all(tensor, value):
    """Whether all elements are that on the host, read on the current stream."""
    return bool((tensor.cpu() == value).all())


def ended_by(action):
    """The signal that ends a child that does this."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else None


def case_a_host_access_ends_the_process():
    x = torch.empty(ELEMENTS, device="sim")
    address = x.data_ptr()
    assert ended_by(lambda: ctypes.string_at(address, 4)) == signal.SIGSEGV
    assert ended_by(lambda: ctypes.memset(address, 0, 4)) == signal.SIGSEGV
    x.fill_(1)
    torch.sim.synchronize()  # the device itself may
    assert ended_by(lambda: ctypes.string_at(address, 4)) == signal.SIGSEGV
    assert is_all(x, 1)


def produced(stream, value=2):
    """A tensor of zeros that a stream adds to, late; and an event after it."""
    x = full(0)
    torch.sim.synchronize()
    with stream:
        x.add_(value)
        event = torch.Event("sim")
        event.record()
    return x, event


def case_a_missing_wait_is_a_wrong_number():
    for _ in range(20):
        x, event = produced(torch.sim.Stream())
        assert is_all(x * 10, 0)
        assert not event.query()
    x, _ = produced(torch.sim.Stream())
    y = full(0)
    y.copy_(x)
    torch.sim.Stream().synchronize()  # of another stream
    assert is_all(y, 0)


def case_every_kind_of_wait_is_right():
    stream = torch.sim.Stream()
    waits = {
        "event.wait": lambda event: event.wait(),
        "stream.wait_event": lambda event: torch.sim.current_stream().wait_event(event),
        "stream.wait_stream": lambda event: torch.sim.current_stream().wait_stream(stream),
        "event.synchronize": lambda event: event.synchronize(),
        "stream.synchronize": lambda event: stream.synchronize(),
        "synchronize": lambda event: torch.accelerator.synchronize(),
    }
    for name, wait in waits.items():
        x, event = produced(stream)
        wait(event)
        assert is_all(x * 10, 20), name


def case_what_is_not_waited_for_still_comes():
    x, event = produced(torch.sim.Stream())
    until = time.monotonic() + 60
    while not event.query() and time.monotonic() < until:
        time.sleep(0.01)
    assert is_all(x, 2)


def case_a_stream_that_overwrites_too_early_is_a_wrong_number():
    torch.sim.late("default")
    try:
        x, y, other = full(1), full(0), torch.sim.Stream()
        torch.sim.synchronize()
        y.copy_(x)  # reads late
        with other:
            x.fill_(5)
        other.synchronize()
        assert is_all(y, 5)
        y.copy_(x)
        other.wait_stream(torch.sim.current_stream())
        with other:
            x.fill_(6)
        other.synchronize()
        assert is_all(y, 5)
    finally:
        torch.sim.late("all")


def read_after_free(record):
    other = torch.sim.Stream()
    x, y = full(3), full(0)
    torch.sim.synchronize()
    with other:
        y.copy_(x)  # late
    if record:
        x.record_stream(other)
    del x
    full(4)  # takes the memory, if it may
    torch.sim.current_stream().synchronize()
    other.synchronize()
    return y


def case_memory_freed_without_record_stream_is_a_wrong_number():
    for _ in range(5):
        assert not is_all(read_after_free(record=False), 3)
        assert is_all(read_after_free(record=True), 3)


def case_memory_that_nobody_wrote_is_nan():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert torch.empty(ELEMENTS, device="sim", dtype=dtype).cpu().isnan().all()


def case_copies_wait_as_cuda_s_do():
    pinned = torch.ones(ELEMENTS).pin_memory()
    assert pinned.is_pinned()
    assert not torch.ones(3).is_pinned()
    x = full(0)
    x.copy_(pinned, non_blocking=True)
    pinned.fill_(2)  # too early
    assert is_all(x, 2)
    x.copy_(pinned, non_blocking=True)
    torch.sim.synchronize()
    pinned.fill_(3)
    assert is_all(x, 2)
    pageable = torch.ones(ELEMENTS)
    x.copy_(pageable, non_blocking=True)
    pageable.fill_(7)
    assert is_all(x, 1)
    pinned.copy_(x, non_blocking=True)
    assert bool((pinned == 3).all())  # not there yet
    torch.sim.current_stream().synchronize()
    assert bool((pinned == 1).all())


def case_the_host_s_bytes_are_counted():
    x = full(1)
    before = torch.sim.counters()
    x.cpu()
    x.copy_(torch.ones(ELEMENTS))
    x.add_(1).clone().mul_(2)
    after = torch.sim.counters()
    assert after["to_host"] - before["to_host"] == 4 * ELEMENTS
    assert after["from_host"] - before["from_host"] == 4 * ELEMENTS


# What hooks and ddp use, and must not make the host wait.
ASYNCHRONOUS = {
    "add_": lambda x, m: x.add_(x),
    "mul": lambda x, m: x * 2,
    "mul.out": lambda x, m: torch.mul(x, 0.5, out=torch.empty_like(x)),
    "div_": lambda x, m: x.div_(3),
    "div_ by a tensor of the host": lambda x, m: x.div_(torch.tensor(3.0)),
    "copy_": lambda x, m: torch.empty_like(x).copy_(x),
    "to another dtype": lambda x, m: x.to(torch.float16),
    "to back": lambda x, m: x.to(torch.bfloat16).to(torch.float32),
    "zero_": lambda x, m: x.zero_(),
    "fill_": lambda x, m: x.fill_(1),
    "zeros": lambda x, m: torch.zeros(5, device="sim"),
    "clone": lambda x, m: x.clone(),
    "cat": lambda x, m: torch.cat([x, x]),
    "stack": lambda x, m: torch.stack([x, x]),
    "split": lambda x, m: [part.add_(1) for part in x.split(10)],
    "isfinite": lambda x, m: torch.isfinite(x).all(),
    "sum": lambda x, m: x.sum(),
    "norm": lambda x, m: torch.linalg.vector_norm(m, dim=1, keepdim=True),
    "argmin": lambda x, m: x.argmin(),
    "matmul": lambda x, m: m @ m.t(),
    "bmm.out": lambda x, m: torch.bmm(
        m.unsqueeze(0), m.t().unsqueeze(0), out=torch.empty(1, 40, 40, device="sim")
    ),
    "qr": lambda x, m: torch.linalg.qr(m),
    "where": lambda x, m: torch.where(x > 0, x, 0.0),
    "foreach_copy": lambda x, m: torch._foreach_copy_([torch.empty_like(x), m], [x, m.clone()]),
    "foreach_mul": lambda x, m: torch._foreach_mul_([x, m], 0.5),
    "foreach_mul tensor": lambda x, m: torch._foreach_mul_([x, m], torch.tensor(0.5)),
    "foreach_div": lambda x, m: torch._foreach_div_([x, m], 3.0),
    "foreach_add": lambda x, m: torch._foreach_add_([x, m], [x, m]),
    "foreach_zero": lambda x, m: torch._foreach_zero_([x, m]),
    "foreach_norm": lambda x, m: torch._foreach_norm([x, m]),
    "quantize": lambda x, m: torch.round(x / 0.1).clamp(0, 255).to(torch.uint8),
}


def case_these_operations_do_not_wait():
    for name, operation in ASYNCHRONOUS.items():
        x, m = full(1), torch.rand(40, 25, generator=torch.Generator().manual_seed(1)).to("sim")
        torch.sim.synchronize()
        torch.sim.set_delay(60_000)
        try:
            waits = torch.sim.counters()["waits"]
            operation(x, m)
            assert torch.sim.counters()["waits"] == waits, name
            assert not torch.sim.current_stream().query(), name
        finally:
            torch.sim.set_delay(200)
            torch.sim.synchronize()


def case_a_list_is_one_launch():
    a, b = ([torch.rand(n, device="sim") for n in range(1, 162)] for _ in range(2))
    torch.sim.synchronize()
    before = torch.sim.counters()["launches"]
    torch._foreach_copy_(a, b)
    assert torch.sim.counters()["launches"] == before + 1
    assert all(torch.equal(x, y) for x, y in zip(a, b))


def results(device):
    made = torch.Generator().manual_seed(2)
    x = torch.randn(ELEMENTS, generator=made).to(device)
    m = torch.randn(40, 25, generator=made).to(device)
    for name, operation in ASYNCHRONOUS.items():
        if "sim" in name or name in ("zeros", "bmm.out"):
            continue
        value = operation(x.clone(), m.clone())
        for i, t in enumerate(value if isinstance(value, (list, tuple)) else [value]):
            if isinstance(t, torch.Tensor):
                yield f"{name}/{i}", t.cpu()
    layer = torch.nn.Linear(25, 7)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=made))
    layer = layer.to(device)
    loss = torch.nn.functional.cross_entropy(layer(m), torch.arange(40, device=device) % 7)
    loss.backward()
    yield "loss", loss.detach().cpu()
    for p in layer.parameters():
        yield f"grad of {tuple(p.shape)}", p.grad.cpu()
    optimizer = torch.optim.Adam(layer.parameters())
    optimizer.step()
    yield "after adam", layer.weight.detach().cpu()
    yield "nonzero", torch.nonzero(x > 0).cpu()
    yield "index", x[torch.tensor([3, 1], device=device)].cpu()


def case_operations_give_the_cpu_s_bits():
    for (name, got), (_, want) in zip(results("sim"), results("cpu")):
        same = torch.equal(got.nan_to_num(), want.nan_to_num()) and got.dtype == want.dtype
        assert same, name


def raises(what, part, action):
    found = ""
    try:
        action()
    except what as error:
        found = str(error)
    assert part in found, f"{found!r} has no {part!r}"


def case_what_cannot_be_right_is_an_error():
    x = full(1)
    raises(RuntimeError, "same device", lambda: x + torch.ones(ELEMENTS))
    raises(RuntimeError, "same device", lambda: x + torch.ones(ELEMENTS, device="sim:1"))
    raises(RuntimeError, "no device sim:7", lambda: torch.ones(3, device="sim:7"))
    raises(RuntimeError, "size", lambda: x + full(1)[:7])
    torch.sim.set_memory_limit(1 << 20)
    try:
        raises(torch.OutOfMemoryError, "out of memory", lambda: torch.empty(1 << 20, device="sim"))
        assert is_all(x + 1, 2)
    finally:
        torch.sim.set_memory_limit(0)


def case_what_fails_on_the_device_is_raised_where_the_host_waits():
    x = full(1)
    torch.sim.synchronize()
    y = x[torch.tensor([ELEMENTS + 5], device="sim")]  # the host does not see the index
    raises(IndexError, "out of bounds", y.cpu)
    assert is_all(x, 1)  # raised once


def case_two_devices():
    x, y = torch.full((ELEMENTS,), 3.0, device="sim:1"), full(0)
    y.copy_(x)  # each device's stream waits for the other's
    x.fill_(4)
    assert is_all(y, 3)
    assert is_all(x, 4)
    assert x.to("sim:0").device == torch.device("sim:0")
    with torch.accelerator.device_index(1):
        assert torch.ones(3, device="sim").device.index == 1
    assert torch.accelerator.current_device_index() == 0


def case_threads_have_current_streams_of_their_own():
    stream, seen = torch.sim.Stream(), []
    torch.sim.set_stream(stream)
    thread = threading.Thread(target=lambda: seen.append(torch.sim.current_stream()))
    thread.start()
    thread.join()
    assert torch.sim.current_stream() == stream
    assert seen[0].stream_id == 0
    torch.sim.set_stream(torch.sim.default_stream())


def case_futures_order_streams():
    stream = torch.sim.Stream()
    x = full(0)
    torch.sim.synchronize()
    with stream:
        x.add_(1)
        future = torch.futures.Future(devices=["sim:0"])
        future.set_result(x)
    seen = []

    def double(done):
        seen.append(torch.sim.current_stream().stream_id)
        return done.value() * 2

    doubled = future.then(double)
    assert doubled.done()
    assert seen[0] not in (0, stream.stream_id)
    assert is_all(doubled.wait(), 2)
    y, _ = produced(torch.sim.Stream())
    unordered = torch.futures.Future(devices=["sim:0"])
    unordered.set_result(y)  # not on the stream that makes it
    assert not is_all(unordered.wait(), 2)


def case_torch_knows_the_device():
    assert torch.accelerator.current_accelerator().type == "sim"
    assert torch.accelerator.device_count() == torch.sim.device_count() == 2
    stream = torch.Stream("sim")
    with stream:
        assert torch.accelerator.current_stream() == stream
    a, b = torch.Event("sim", enable_timing=True), torch.Event("sim", enable_timing=True)
    a.record()
    full(1)
    b.record()
    b.synchronize()
    assert a.elapsed_time(b) >= 0
    torch.sim.synchronize()
    before = torch.accelerator.memory_allocated()
    x = full(1)
    assert torch.accelerator.memory_allocated() - before == 4096
    del x
    assert torch.accelerator.memory_allocated() == before
    x = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(full(2)))
    assert x.device == torch.device("sim:0")
    assert is_all(x, 2)


def case_without_a_delay_nothing_is_late():
    torch.sim.set_delay(0)
    try:
        x, event = produced(torch.sim.Stream())
        until = time.monotonic() + 60
        while not event.query() and time.monotonic() < until:
            pass
        assert is_all(x, 2)
    finally:
        torch.sim.set_delay(200)


def case_a_collective_is_in_the_order_of_streams():
    store = dist.HashStore()
    dist.init_process_group("cpu:gloo,sim:simccl", store=store, rank=0, world_size=1)
    stream = torch.sim.Stream()
    x, _ = produced(stream)
    with stream:
        work = dist.all_reduce(x, async_op=True)  # after what the current stream has
        future = work.get_future()
    assert future.done()
    assert not work.is_completed()
    assert not is_all(x, 2)
    future.wait()
    assert is_all(x, 2)
    out = [full(0)]
    dist.all_gather(out, x)
    assert is_all(out[0], 2)
    dist.barrier()
    raises(
        RuntimeError, "one device", lambda: dist.all_gather([torch.ones(3, device="sim:1")], x[:3])
    )
    dist.destroy_process_group()


def main():
    torch.set_num_threads(1)
    failed = {}
    cases = {name: case for name, case in globals().items() if name.startswith("case_")}
    for name, case in cases.items():
        try:
            case()
            failed[name[5:]] = ""
        except BaseException:
            failed[name[5:]] = traceback.format_exc()
            torch.sim.set_delay(200)
    print(json.dumps(failed))


if __name__ == "__main__":
    main()
