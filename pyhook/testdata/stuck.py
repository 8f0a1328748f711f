"""Hooks that do not return by themselves."""

import threading
import time

import torch

stop = threading.Event()


def endless(state, bucket):
    bucket.buffer().mul_(1)
    while True:
        pass


def stubborn(state, bucket):
    while state["caught"] < 3:
        try:
            time.sleep(0.01)
        except BaseException:
            state["caught"] += 1
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def waits_for_a_lock(state, bucket):
    lock = threading.Lock()
    lock.acquire()
    while not lock.acquire(timeout=0.05):
        pass


def endless_thread(state, bucket):
    """Another thread is stuck too: its stack is told."""
    stop.clear()

    def elsewhere():
        while not stop.wait(0.01):
            pass

    try:  # the interruption may come as early as in start
        threading.Thread(target=elsewhere, name="elsewhere", daemon=True).start()
        while True:
            time.sleep(0.01)
    finally:
        stop.set()


def endless_callback(state, bucket):
    import torch.distributed as dist

    work = dist.all_reduce(bucket.buffer(), async_op=True)

    def callback(future):
        while True:
            pass

    return work.get_future().then(callback)


def starts_threads(state, bucket):
    while True:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()


def issues(state, bucket):
    """Issues collectives and lets go of their works."""
    import torch.distributed as dist

    while True:
        future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
        future.then(lambda f: f.value()).done()


def calls(state, bucket):
    """Call a Go function, which calls other hooks."""
    state["call"]()
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def starts_and_raises(state, bucket):
    import torch.distributed as dist

    dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0])
    raise ValueError("too late")


def own_threads():
    """The threads that hooks have started and that still run."""
    made = (threading.Thread, threading.Timer)
    return [thread.name for thread in threading.enumerate() if type(thread) in made]


def noted_works():
    """How many works are noted as alive."""
    from pyhook._runtime import issued

    return len(issued._by_work)


def completes_its_own(state, bucket):
    """Completes futures of its own, whose callbacks C++ calls, and waits for what they give."""
    while True:
        future = torch.futures.Future()
        given = future.then(lambda f: f.value())
        future.set_result(1)
        given.wait()
