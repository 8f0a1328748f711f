"""Hooks that misbehave as guests of the process."""

import atexit
import faulthandler
import gc
import importlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings

import torch

kept = []


def done(bucket):
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def exits(state, bucket):
    sys.exit(3)


def exits_by_quit(state, bucket):
    raise SystemExit("bye")


def exits_by_generator(state, bucket):
    raise GeneratorExit


def forks_and_ends(state, bucket):
    child = os.fork()
    if child == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    return done(bucket)


def forks_and_returns(state, bucket):
    """The child comes back from the hook: it must not become a second trainer."""
    child = os.fork()
    if child == 0:
        os.close(2)
        return done(bucket)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 70
    return done(bucket)


def forks_and_raises(state, bucket):
    child = os.fork()
    if child == 0:
        os.close(2)
        raise ValueError("in the child")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 70
    return done(bucket)


def runs_a_program(state, bucket):
    assert subprocess.run(["true"], check=False).returncode == 0
    return done(bucket)


def leaves_a_thread(state, bucket):
    threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()
    return done(bucket)


def leaves_busy_threads(state, bucket):
    def work():
        end = time.time() + 0.3
        while time.time() < end:
            sum(range(1000))

    for _ in range(4):
        threading.Thread(target=work, daemon=True).start()
    return done(bucket)


def installs_signal_handlers(state, bucket):
    try:
        signal.signal(signal.SIGUSR1, lambda *_: None)
    except ValueError as error:  # not on the main thread
        assert "main thread" in str(error)
    return done(bucket)


def sets_an_alarm(state, bucket):
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return done(bucket)


def enables_faulthandler(state, bucket):
    faulthandler.enable(open(os.devnull, "w"))
    faulthandler.disable()
    return done(bucket)


def replaces_stdout(state, bucket):
    real, sys.stdout = sys.stdout, tempfile.TemporaryFile("w+")
    print("into a file")
    sys.stdout.close()
    sys.stdout = real
    return done(bucket)


def loses_stdout(state, bucket):
    sys.stdout = sys.stderr = None
    try:
        print("nowhere")
        return done(bucket)
    finally:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def closes_stdin(state, bucket):
    if sys.stdin is not None:
        sys.stdin.close()
    return done(bucket)


def recurses(state, bucket):
    return recurses(state, bucket)


def recurses_in_repr(state, bucket):
    ring = []
    ring.append(ring)
    deep = ring
    for _ in range(100_000):
        deep = [deep]
    raise ValueError(deep)


def raises_a_huge_exception(state, bucket):
    raise ValueError("x" * 100_000_000)


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no str")

    __repr__ = __str__


def raises_the_unprintable(state, bucket):
    raise Unprintable


class Exits(Exception):
    def __str__(self):
        sys.exit(1)


def raises_what_exits_when_printed(state, bucket):
    raise Exits


def raises_a_ring_of_causes(state, bucket):
    a, b = ValueError("a"), ValueError("b")
    a.__cause__, b.__cause__ = b, a
    raise a


def makes_rings_of_tensors(state, bucket):
    for _ in range(100):
        ring = [bucket, bucket.buffer(), bucket.gradients()]
        ring.append(ring)
    return done(bucket)


def keeps_everything(state, bucket):
    kept.append((bucket, bucket.buffer(), bucket.gradients(), bucket.parameters()))
    return done(bucket)


def patches_torch(state, bucket):
    real = torch.Tensor.numel
    torch.Tensor.numel = lambda self: 1 / 0
    try:
        return done(bucket)
    finally:
        torch.Tensor.numel = real


def patches_future(state, bucket):
    real = torch.futures.Future.value
    torch.futures.Future.value = lambda self: None
    try:
        return done(bucket)
    finally:
        torch.futures.Future.value = real


def registers_atexit(state, bucket):
    atexit.register(lambda: 1 / 0)
    return done(bucket)


def imports_on_two_threads(state, bucket):
    threads = [
        threading.Thread(target=importlib.import_module, args=(name,))
        for name in ("wave", "colorsys", "wave", "colorsys")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return done(bucket)


def changes_the_process(state, bucket):
    here, mask = os.getcwd(), os.umask(0o77)
    os.chdir("/")
    os.environ["GUEST"] = "was here"
    os.chdir(here)
    os.umask(mask)
    return done(bucket)


def sets_the_recursion_limit(state, bucket):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        return done(bucket)
    finally:
        sys.setrecursionlimit(limit)


def sets_hooks_of_sys(state, bucket):
    real = sys.excepthook, sys.unraisablehook
    sys.excepthook = sys.unraisablehook = lambda *_: 1 / 0
    try:
        return done(bucket)
    finally:
        sys.excepthook, sys.unraisablehook = real


def traces(state, bucket):
    sys.settrace(lambda *_: None)
    try:
        return done(bucket)
    finally:
        sys.settrace(None)


def fails_in_a_finaliser(state, bucket):
    class Final:
        def __del__(self):
            raise ValueError("in __del__")

    real, sys.unraisablehook = sys.unraisablehook, lambda *_: None
    try:
        Final()
        gc.collect()
    finally:
        sys.unraisablehook = real
    return done(bucket)


def turns_gc_off(state, bucket):
    gc.disable()
    gc.enable()
    return done(bucket)


def makes_warnings_errors(state, bucket):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn("an error now", stacklevel=1)


def silences_logging(state, bucket):
    logging.disable(logging.CRITICAL)
    logging.disable(logging.NOTSET)
    return done(bucket)


def opens_many_files(state, bucket):
    files = [open(os.devnull) for _ in range(200)]
    for file in files:
        file.close()
    return done(bucket)


def runs_out_of_memory(state, bucket):
    return torch.empty(1 << 60)


def asks_for_too_large_a_list(state, bucket):
    return [0] * (1 << 60)


def said():
    """What is in the memory that was kept."""
    bucket, buffer, gradients, _ = kept[0]
    buffer.mul_(1)
    return f"{buffer.tolist()} {bucket.buffer().tolist()}"


def forget():
    kept.clear()
