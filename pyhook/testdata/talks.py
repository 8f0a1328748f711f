"""Hooks that print, log and warn."""

import atexit
import logging
import sys
import threading
import warnings

import torch


def hook(state, bucket):
    print("hello from", bucket.index())
    print("in", "parts", end=" ")
    print("and\ntwo lines")
    print("to stderr", file=sys.stderr)
    logging.getLogger("my.hook").warning("a %s", "warning")
    logging.getLogger("my.hook").info("not shown")
    try:
        raise ValueError("an \udc80 odd one")
    except ValueError:
        logging.exception("failed")
    warnings.warn("deprecated", stacklevel=1)
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start()
    thread.join()
    atexit.register(print, "at exit")
    print("no end", end="")
    sys.stdout.flush()
    assert sys.stdout.fileno() == 1 and not sys.stdout.isatty() and sys.stdout.encoding == "utf-8"
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def floods(state, bucket):
    for i in range(20_000):
        print(i)
    print("the last line")
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future

