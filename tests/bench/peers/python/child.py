"""Runs a hook for a Go parent.

usage: child.py pipe HOOK BYTES        a bucket comes on stdin and goes back on stdout
       child.py shm HOOK BYTES SLOTS   buckets are in the memory of descriptor 3; a byte on stdin
                                       is the number of one, and comes back on stdout when it is done
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from typing import Any

import hooks
import torch


def buckets_of_pipe(size: int) -> Iterator[tuple[Any, int]]:
    memory = bytearray(size)
    view = memoryview(memory)
    while True:
        read = 0
        while read < size:
            n = os.readv(0, [view[read:]])
            if n == 0:
                return
            read += n
        yield memory, 0
        written = 0
        while written < size:
            written += os.write(1, view[written:])


def buckets_of_shm(size: int, slots: int) -> Iterator[tuple[Any, int]]:
    memory = mmap.mmap(3, size * slots)
    while doorbell := os.read(0, 1):
        yield memory, doorbell[0] * size
        os.write(1, doorbell)


def main(transport: str, name: str, size: int, slots: int = 1) -> None:
    hook = getattr(hooks, name)
    torch.set_num_threads(1)
    buckets = buckets_of_shm(size, slots) if transport == "shm" else buckets_of_pipe(size)
    for memory, offset in buckets:
        buffer = torch.frombuffer(memory, dtype=torch.float32, count=size // 4, offset=offset)
        result = hook(None, hooks.Bucket(buffer)).wait()
        if result.data_ptr() != buffer.data_ptr():
            buffer.copy_(result)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
