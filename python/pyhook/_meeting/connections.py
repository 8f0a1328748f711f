"""This process's connections to the store. Shutting one down ends a wait in it."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import Any


def connections(port: int) -> set[int]:
    """Return the inodes of this process's TCP connections to a port."""
    return {inode for inode, _ in _each(port)}


def sever(port: int, keep: set[int]) -> None:
    """Shut down those connections, except ``keep``: a thread that waits in one gets an error."""
    for inode, connection in _each(port):
        if inode not in keep:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _each(port: int) -> Any:
    if not port:
        return
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
            if not stat.S_ISSOCK(status.st_mode):
                continue
            # A duplicate would keep the port in use after its owner closes it.
            connection = socket.socket(fileno=int(name))
            try:
                if connection.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                if connection.getpeername()[1] == port:
                    yield status.st_ino, connection
            finally:
                connection.detach()
        except OSError:  # not connected, or closed by now
            continue
