"""A client of torch's TCPStore that needs no torch: the bytes on the wire.

Ranks use it for what torch's own client cannot do. It reads the count of plain torch ranks,
whose key no method of torch's client reaches, it gives up after a limit of time, and it
speaks both dialects. Since torch 2.1 a connection begins with a magic number, and each query's
number is one higher (torch/csrc/distributed/c10d/TCPStoreBackend.hpp: ``VALIDATE`` became the
first ``QueryType``). A client of one dialect cannot speak with a server of the other: 1.13's
waits forever for 2.15's, which closes the connection or stays silent, and 1.13's server
refuses 2.15's client again and again.
"""

from __future__ import annotations

import datetime
import functools
import socket
import struct
import time
from typing import Optional

import torch.distributed as dist

OLD, NEW = 0, 1
"""The dialects: what is added to the number of each query."""

ABOUT = {OLD: "older than 2.1", NEW: "2.1 or newer"}

TAKES = dist.TCPStore.__init__.__doc__ or ""
"""The keyword arguments of this torch's TCPStore, as pybind11 lists them."""

NO_LIBUV = {"use_libuv": False} if "use_libuv" in TAKES else {}
"""Arguments for a TCPStore without libuv, which not every build of torch has."""

_MAGIC = struct.pack("=I", 0x3C85F7CE)
_SET, _COMPARE_SET, _ADD = 0, 1, 3
_POLL_SECONDS = 0.02


class NotAStore(Exception):
    """A service answered, but not as a TCPStore does."""


def _packed(text: str) -> bytes:
    data = text.encode()
    return struct.pack("=Q", len(data)) + data


def _key(key: str) -> bytes:
    return _packed(key if key.startswith("/") else f"/pyhook/{key}")


class StoreClient:
    """A client of a TCPStore of either dialect, with the few queries that a meeting needs.

    A key is below "/pyhook/" unless it begins with "/", as keys do that torch's client sets.
    All calls together wait no longer than ``seconds``; each raises OSError if the server does
    not answer as a store does.
    """

    def __init__(self, host: str, port: int, dialect: int, seconds: float) -> None:
        self.dialect = dialect
        self._socket = socket.create_connection((host, port), timeout=seconds)
        self._deadline = time.monotonic() + seconds
        # Sent with the first query: a server of the old dialect waits, and serves nobody
        # else meanwhile, until it has read a length.
        self._first = b"\0" + _MAGIC if dialect == NEW else b""

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def limit(self, seconds: float) -> None:
        """Let the calls that follow wait this long, all together."""
        self._deadline = time.monotonic() + seconds

    def _ask(self, query: int, *parts: bytes) -> None:
        data = self._first + bytes([query + self.dialect]) + b"".join(parts)
        self._first = b""
        self._socket.sendall(data)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            self._socket.settimeout(max(self._deadline - time.monotonic(), 0.001))
            part = self._socket.recv(size - len(data))
            if not part:
                raise ConnectionError("the store closed the connection")
            data += part
        return data

    def _add(self, key: bytes, amount: int) -> int:
        self._ask(_ADD, key, struct.pack("=q", amount))
        return int(struct.unpack("=q", self._read(8))[0])

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and return its new value."""
        return self._add(_key(key), amount)

    def workers(self, amount: int = 0) -> int:
        """Add to the count of clients that torch's rendezvous made, and return it.

        Each TCPStore with a world size adds one, and rank 0's waits until the count is the
        world size (torch/csrc/distributed/c10d/TCPStore.cpp, ``waitForWorkers``). It is the one
        key that does not begin with "/".
        """
        return self._add(_packed("init/"), amount)

    def set(self, key: str, value: str) -> None:
        """Set a key."""
        self._ask(_SET, _key(key), _packed(value))

    def peek(self, key: str) -> Optional[str]:
        """Return the key's value, or None if it has none."""
        absent = "-"  # a key that is not there is left alone, and this comes back
        self._ask(_COMPARE_SET, _key(key), _packed(absent), _packed(absent))
        (size,) = struct.unpack("=Q", self._read(8))
        if size > 1 << 20:
            raise ConnectionError("the service that answers is not a store")
        value = self._read(size).decode()
        return None if value == absent else value

    def get(self, key: str) -> str:
        """Wait until the key has a value, and return it."""
        while True:
            value = self.peek(key)
            if value is not None:
                return value
            if time.monotonic() > self._deadline:
                raise TimeoutError(f"nobody set {key}")
            time.sleep(_POLL_SECONDS)


def greet(host: str, port: int, dialect: int, seconds: float) -> Optional[StoreClient]:
    """Connect to a store that speaks ``dialect``. Return None if none answers so.

    Raises:
        NotAStore: another service answered.
    """
    store = None
    try:
        store = StoreClient(host, port, dialect, seconds)
        answer = store.add("counter", 0)
    except OSError:
        if store is not None:
            store.close()
        return None
    if answer == 0:
        return store
    store.close()
    raise NotAStore(f"the service at port {port} does not answer as a store does")


def greet_own(host: str, port: int, seconds: float) -> StoreClient:
    """Connect to a store that this process's torch serves.

    Raises:
        ConnectionError: it does not answer.
    """
    for dialect in (NEW, OLD) if "master_listen_fd" in TAKES else (OLD,):  # 2.0, and 1.x
        store = greet(host, port, dialect, seconds)
        if store is not None:
            return store
    raise ConnectionError(f"this process's own store at port {port} does not answer")


@functools.cache
def own_dialect() -> int:
    """Return the dialect of this torch's stores, tried on a free loopback port."""
    if "master_listen_fd" not in TAKES:
        return OLD
    limit = datetime.timedelta(seconds=2)
    server = dist.TCPStore(
        "127.0.0.1", 0, None, True, timeout=limit, wait_for_workers=False, **NO_LIBUV
    )
    store = greet_own("127.0.0.1", server.port, 2)
    store.close()
    return store.dialect


def find(host: str, port: int, seconds: float) -> Optional[StoreClient]:
    """Connect to the store that serves there, whichever dialect it speaks; None: no answer.

    Raises:
        NotAStore: another service answered.
    """
    mine = own_dialect()
    store = greet(host, port, mine, seconds)
    if store is not None:
        return store
    store = greet(host, port, OLD if mine == NEW else NEW, seconds)
    if store is None:
        return None
    # Only a server that does not know this torch's own dialect is of another.
    again = greet(host, port, mine, seconds)
    if again is not None:
        store.close()
        return again
    return store
