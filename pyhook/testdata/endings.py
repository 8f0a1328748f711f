"""Hooks that leave work and files behind, as many do: python itself sees to those at its end."""

import atexit
import concurrent.futures
import csv
import gzip
import os
import threading
import time

import torch

OUT = os.environ.get("PYHOOK_TEST_OUT", os.devnull)


def _at(name):
    return os.path.join(OUT, name)


def leaves(state, bucket):
    """Logs to files that nobody closes, and gives work to pools that nobody shuts down."""
    global LOG, TABLE, ZIPPED, POOL, PROCESSES
    LOG = open(_at("log.csv"), "w")
    LOG.write("step,norm\n")
    TABLE = csv.writer(open(_at("table.csv"), "w", newline=""), lineterminator="\n")
    TABLE.writerow([1, 2])
    ZIPPED = gzip.open(_at("zipped.gz"), "wt")
    ZIPPED.write("a line\n")
    POOL = concurrent.futures.ThreadPoolExecutor(1)
    POOL.submit(_write, "pool")
    threading.Thread(target=_write, args=("thread",)).start()
    PROCESSES = concurrent.futures.ProcessPoolExecutor(1)
    PROCESSES.submit(abs, -3).result()
    atexit.register(_note, "atexit")
    return _done(bucket)


def _write(name):
    time.sleep(0.5)
    _note(name)


def _note(name):
    with open(_at(name), "w") as file:
        file.write("done\n")


def shuts_nothing_down(state, bucket):
    """A pool of processes for each run."""
    global PROCESSES
    if state is None and "PROCESSES" not in globals():
        PROCESSES = concurrent.futures.ProcessPoolExecutor(1)
    assert PROCESSES.submit(abs, -3).result() == 3
    return torch.distributed.all_reduce(
        bucket.buffer().div_(torch.distributed.get_world_size()), async_op=True
    ).get_future().then(lambda fut: fut.value()[0])


def never_ends(state, bucket):
    threading.Thread(target=time.sleep, args=(3600,), name="uploader").start()
    return _done(bucket)


def _done(bucket):
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future
