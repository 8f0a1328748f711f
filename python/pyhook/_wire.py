"""The bytes that torch's TCPStore speaks, for meeting a store of another torch.

There are two dialects. Since torch 2.1 a connection begins with a magic number, and each
query's number is one higher (torch/csrc/distributed/c10d/TCPStoreBackend.hpp: ``VALIDATE``
came in as the first ``QueryType``). A client of the one kind cannot speak with a server of
the other: 1.13's waits without an end for 2.15's, which closes the connection or says
nothing, and 2.15's is refused by 1.13's again and again. So where torch's own client does
not come to its server, both are asked here, with a limit of time.
"""

from __future__ import annotations

import datetime
import functools
import socket
import struct
import time
from typing import Optional

from . import _torch  # noqa: F401  (first: a clear error when torch is missing)

# isort: split
import torch.distributed as dist

OLD, NEW = 0, 1
"""The dialects: what is added to the number of each query."""

ABOUT = {OLD: "older than 2.1", NEW: "2.1 or newer"}

_MAGIC = struct.pack("=I", 0x3C85F7CE)
_SET, _COMPARE_SET, _ADD = 0, 1, 3
_POLL_SECONDS = 0.02


def _packed(text: str) -> bytes:
    data = text.encode()
    return struct.pack("=Q", len(data)) + data


class Store:
    """A client of a TCPStore of either dialect: what ranks that meet need, and no more.

    No call waits longer than ``seconds``; each raises OSError where the server does not
    answer as a store does.
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
        """Let the calls to come wait so long, all together."""
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

    def add(self, key: str, amount: int) -> int:
        """Add to a counter, and return what it is then."""
        self._ask(_ADD, _packed(f"/{key}"), struct.pack("=q", amount))
        return int(struct.unpack("=q", self._read(8))[0])

    def set(self, key: str, value: str) -> None:
        """Set a key."""
        self._ask(_SET, _packed(f"/{key}"), _packed(value))

    def peek(self, key: str) -> Optional[str]:
        """Return the key's value, or None without waiting for it."""
        absent = "-"  # a key that is not there is left alone, and this comes back
        self._ask(_COMPARE_SET, _packed(f"/{key}"), _packed(absent), _packed(absent))
        (size,) = struct.unpack("=Q", self._read(8))
        if size > 1 << 20:
            raise ConnectionError("what answers is no store")
        value = self._read(size).decode()
        return None if value == absent else value

    def get(self, key: str) -> str:
        """Return the key's value as soon as it has one."""
        while True:
            value = self.peek(key)
            if value is not None:
                return value
            if time.monotonic() > self._deadline:
                raise TimeoutError(f"nobody set {key}")
            time.sleep(_POLL_SECONDS)


def greet(host: str, port: int, dialect: int, seconds: float) -> Optional[Store]:
    """A connection to a store that speaks ``dialect``; None where none answers so."""
    store = None
    try:
        store = Store(host, port, dialect, seconds)
        if store.add("pyhook/counter", 0) == 0:
            return store
    except OSError:
        pass
    if store is not None:
        store.close()
    return None


@functools.cache
def own_dialect() -> Optional[int]:
    """Which dialect this torch's stores speak. Tried, on a free loopback port."""
    limit = datetime.timedelta(seconds=2)
    try:
        server = dist.TCPStore("127.0.0.1", 0, None, True, timeout=limit, wait_for_workers=False)
    except RuntimeError:  # it asks for a libuv that it was built without
        server = dist.TCPStore(
            "127.0.0.1", 0, None, True, timeout=limit, wait_for_workers=False, use_libuv=False
        )
    for dialect in (NEW, OLD):
        store = greet("127.0.0.1", server.port, dialect, 2)
        if store is not None:
            store.close()
            return dialect
    return None


def speaks(host: str, port: int, seconds: float) -> bool:
    """Whether a store of this torch's dialect answers there."""
    mine = own_dialect()
    store = None if mine is None else greet(host, port, mine, seconds)
    if store is None:
        return False
    store.close()
    return True


def other_dialect(host: str, port: int, seconds: float) -> Optional[Store]:
    """A connection to a store of a torch with which this one's cannot speak, or None."""
    mine = own_dialect()
    if mine is None:
        return None
    store = greet(host, port, OLD if mine == NEW else NEW, seconds)
    # Only a server that does not know this torch's own dialect is of another.
    if store is not None and speaks(host, port, seconds):
        store.close()
        return None
    return store
