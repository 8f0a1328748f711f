"""The store where ranks meet: opening it where it is told to be, and letting go of it."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import socket
import stat
import struct
from typing import Any, NamedTuple, Optional

from . import _torch  # noqa: F401  (first: a clear error when torch is missing)

# isort: split
import torch.distributed as dist

from . import _wire
from ._errors import GroupError

LISTEN = "PYHOOK_STORE_LISTEN"
"""The environment variable with the address that rank 0 listens on, if not MASTER_ADDR."""

_ATTEMPT_SECONDS = 1.0
_TAKES = dist.TCPStore.__init__.__doc__ or ""  # its keyword arguments, by pybind11


class NotYet(Exception):
    """Nobody serves the store, or nobody can be reached there."""


class OtherTorch(Exception):
    """The store is of a torch with which this one's client cannot speak."""

    def __init__(self, store: _wire.Store) -> None:
        super().__init__(f"the store is of a torch {_wire.ABOUT[store.dialect]}")
        self.store = store  # a connection that can


class Place(NamedTuple):
    """Where the store is: a host and a port, or a file."""

    host: str = ""
    port: int = 0
    path: str = ""
    agent: bool = False  # torchrun's agent serves it, and not rank 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{host}:{self.port}"

    @classmethod
    def of(cls, method: str) -> Place:
        """The place of "env://", "tcp://host:port" or "file://path"."""
        scheme, _, where = method.partition("://")
        if scheme == "file":
            return cls(path=where)
        agent = False
        if scheme == "env":
            host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
            # torch/distributed/rendezvous.py
            agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        else:
            host, _, port = where.rpartition(":")
        host = _unbracketed(host)
        if not host or not port:
            raise GroupError(
                "rendezvous",
                f"{method} names no host and port",
                "set MASTER_ADDR and MASTER_PORT, or give an InitMethod tcp://host:port",
            )
        if not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise GroupError("address", f"the port {port!r} is none", _port_hint(port))
        return cls(host=host, port=int(port), agent=agent)


def _unbracketed(host: str) -> str:
    """An IPv6 address without the brackets that it has in a URL, which no resolver takes."""
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1]
    if "[" in host or "]" in host:
        raise GroupError(
            "address", f"the host {host!r} is none", "write an IPv6 address as ::1, or as [::1]"
        )
    return host


def _port_hint(port: str) -> str:
    if "://" not in port:
        return "give one from 1 to 65535"
    return (
        "Kubernetes sets MASTER_PORT so for a Service that is called master: set "
        "enableServiceLinks: false in the pod's spec, give the Service another name, or set "
        "MASTER_PORT to the port's number in the container"
    )


def serve(place: Place, timeout: datetime.timedelta) -> Any:
    """Rank 0's store, which listens at the place's address and no other.

    torch older than 2.0 listens on all of the host's interfaces whatever it is told;
    newer ones too, unless they are handed a socket that listens already.
    """
    listening, address = _listen(place)
    # In whole seconds, on 1.13, and no more than a moment: it is this process's own.
    options: dict[str, Any] = {
        "timeout": max(timeout, datetime.timedelta(seconds=2)),
        "wait_for_workers": False,
    }
    if "use_libuv" in _TAKES:
        options["use_libuv"] = False  # which not every build of torch has
    if "master_listen_fd" in _TAKES:
        options["master_listen_fd"] = listening.detach()  # torch closes it
    else:
        listening.close()
    try:
        store = dist.TCPStore(address, place.port, None, True, **options)
    except RuntimeError as error:
        if "already in use" in str(error).lower() or "eaddrinuse" in str(error).lower():
            raise _in_use(place) from error
        raise
    store.set_timeout(timeout)
    return store


def _listen(place: Place) -> tuple[socket.socket, str]:
    """A listening socket, and the address by which this process reaches it."""
    told = _unbracketed(os.environ.get(LISTEN, ""))
    found = _resolve(told or place.host, place.port)
    reach = found[0][1]
    if not told and _is_nickname(place.host, reach):
        found, told = [(socket.AF_INET, "0.0.0.0")], "0.0.0.0"
    failed: Optional[OSError] = None
    for family, address in found:
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((address, place.port))
            listening.listen(2048)
        except OSError as error:
            listening.close()
            failed = error
            continue
        if address in ("0.0.0.0", "::"):
            return listening, reach if reach != address else place.host
        return listening, address
    if failed is not None and failed.errno == errno.EADDRINUSE:
        raise _in_use(place) from failed
    raise GroupError(
        "address",
        f"rank 0 cannot listen on {told or place.host}, port {place.port}: {failed}",
        "MASTER_ADDR must be an address of the host that rank 0 runs on: is this rank 0? "
        f"Where others reach it by another address, set {LISTEN}, to 0.0.0.0 for any",
    ) from failed


def _is_nickname(host: str, address: str) -> bool:
    """Whether a host's name means loopback here, and another address elsewhere.

    Debian's /etc/hosts has 127.0.1.1 for the host's own name. Ranks on other hosts
    could not reach that.
    """
    if host in ("localhost", address) or not address.startswith("127."):
        return False
    return not one_host()


def one_host() -> bool:
    """Whether the launcher says that all ranks are on this host."""
    return os.environ.get("LOCAL_WORLD_SIZE", "") == os.environ.get("WORLD_SIZE", "-")


def _in_use(place: Place) -> GroupError:
    return GroupError(
        "port_in_use",
        f"rank 0 cannot serve the store: port {place.port} of {place.host} is in use",
        "is another job, another rank 0, or one that has not ended yet, using it? "
        "Else choose another MASTER_PORT",
    )


def connect(place: Place, timeout: datetime.timedelta, seconds: float) -> Any:
    """The store that rank 0, or torchrun's agent, serves.

    torch 1.13 holds Python's global lock while it waits for somebody to listen, so
    that is waited for here.

    Raises:
        NotYet: there is none.
        OtherTorch: it is of a torch whose store's protocol is another.
        GroupError: something else listens there (``not_a_store``).
    """
    limit = min(max(seconds, 0.1), _ATTEMPT_SECONDS)
    address = _reach(place, limit)
    if "master_listen_fd" in _TAKES and not _wire.speaks(address, place.port, limit):
        _refuse_other(address, place.port)  # before torch tries, and logs, for two seconds
    options: dict[str, Any] = {"wait_for_workers": False}
    if "use_libuv" in _TAKES:
        options["use_libuv"] = False
    # Short: torch tries again and again, not looking whether it is to stop; and in whole
    # seconds, on 1.13.
    options["timeout"] = datetime.timedelta(seconds=2)
    try:
        store = dist.TCPStore(address, place.port, None, False, **options)
    except RuntimeError as error:
        # torch 2.15's word for it, and 2.6's
        if "invalid value returned" in str(error) or "returnedNonce" in str(error):
            raise _foreign(place) from error
        raise NotYet(f"what listens there gave no answer of a store: {error}") from error
    store.set_timeout(timeout)
    return store


def _refuse_other(address: str, port: int) -> None:
    other = _wire.other_dialect(address, port, _ATTEMPT_SECONDS)
    if other is not None:
        raise OtherTorch(other)


def _foreign(place: Place) -> GroupError:
    return GroupError(
        "not_a_store",
        f"what listens at {place} is no store of torch.distributed",
        "is MASTER_PORT that of another service? Choose a port that is free",
    )


def _greet(place: Place, address: str, connection: socket.socket) -> None:
    """Try whether a store listens, for torch that does not (before 2.0).

    torch 1.13 believes whatever it reads: it ends the process when another server
    speaks first, and waits for ever for one that is silent. This adds 0 to a key
    (torch/csrc/distributed/c10d/TCPStore.cpp, QueryType::ADD).
    """
    key = b"/pyhook/counter"
    connection.sendall(b"\x03" + struct.pack("=Q", len(key)) + key + struct.pack("=q", 0))
    try:
        answer = connection.recv(8, socket.MSG_WAITALL)
    except OSError as error:  # as a store of torch 2.1 and later does: closed, or no answer
        answer, failed = b"", error
    else:
        failed = ConnectionError("what listens there closed the connection")
    if answer.strip(b"\0"):
        raise _foreign(place)
    if not answer:
        _refuse_other(address, place.port)
        raise NotYet(str(failed)) from failed


def _reach(place: Place, seconds: float) -> str:
    failed: Optional[OSError] = None
    for _, address in _resolve(place.host, place.port):
        try:
            with socket.create_connection((address, place.port), timeout=seconds) as connection:
                if "master_listen_fd" not in _TAKES:
                    _greet(place, address, connection)
            return address
        except OSError as error:
            failed = error
    raise NotYet(f"nobody can be reached there, who answers: {failed}") from failed


def _resolve(host: str, port: int) -> list[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NotYet(f"{host!r} has no address here: {error}") from error
    return sorted({(int(f), str(a[0])) for f, _, _, _, a in found})  # IPv4 first


def publish(store: Any, key: str, value: str) -> None:
    """Set a key for ``peek``. ``store`` is torch's, or a ``_wire.Store``."""
    store.set(key, value)
    store.add(f"{key}/set", 1)


def peek(store: Any, key: str) -> Optional[str]:
    """Return the value that another rank published, or None without waiting for it.

    torch 1.13 has no ``check``, and its ``compare_set`` makes the bytes that it returns
    without the GIL, which corrupts memory when another thread runs (torch/csrc/distributed/
    c10d/init.cpp there: ``call_guard<gil_scoped_release>`` around the conversion).
    """
    return str(store.get(key).decode()) if store.add(f"{key}/set", 0) else None


def connections(port: int) -> set[int]:
    """The inodes of this process's TCP connections to a port."""
    return {inode for inode, _ in _each(port)}


def sever(port: int, keep: set[int]) -> None:
    """Shut those connections down, but for some: who waits in them gets an error."""
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
            # No duplicate of it: that would keep a port in use when its owner closes it.
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
