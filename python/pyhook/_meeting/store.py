"""The store where ranks meet: serving it, connecting to it."""

from __future__ import annotations

import datetime
import errno
import os
import socket
from typing import Any, Optional

import torch.distributed as dist

from .._errors import GroupError
from . import store_client
from .endpoint import LISTEN, Endpoint, one_host, unbracketed

_ATTEMPT_SECONDS = 1.0


class NotYet(Exception):
    """Nobody serves the store, or nobody can be reached there."""


class OtherTorch(Exception):
    """This torch's client cannot speak with the store's torch."""

    def __init__(self, store: store_client.StoreClient) -> None:
        super().__init__(f"the store is of a torch {store_client.ABOUT[store.dialect]}")
        self.store = store  # a connection that can


def serve(endpoint: Endpoint, timeout: datetime.timedelta) -> tuple[Any, store_client.StoreClient]:
    """Serve rank 0's store at the endpoint's address and no other; return two clients of it.

    torch older than 2.0 listens on all of the host's interfaces whatever it is told; newer ones
    too, unless they get a socket that listens already.
    """
    listening, address = _listen(endpoint)
    options = _options(max(timeout, datetime.timedelta(seconds=2)))
    if "master_listen_fd" in store_client.TAKES:
        options["master_listen_fd"] = listening.detach()  # torch closes it
    else:
        listening.close()
    try:
        store = dist.TCPStore(address, endpoint.port, None, True, **options)
    except RuntimeError as error:
        if "already in use" in str(error).lower() or "eaddrinuse" in str(error).lower():
            raise _in_use(endpoint) from error
        raise
    store.set_timeout(timeout)
    return store, store_client.greet_own(address, endpoint.port, 2)


def _options(timeout: datetime.timedelta) -> dict[str, Any]:
    """Return options for torch's TCPStore. torch 1.13 rounds the timeout to whole seconds."""
    return {"timeout": timeout, "wait_for_workers": False, **store_client.NO_LIBUV}


def _listen(endpoint: Endpoint) -> tuple[socket.socket, str]:
    """Return a listening socket, and the address by which this process reaches it."""
    chosen = unbracketed(os.environ.get(LISTEN, ""))
    found = _resolve(chosen or endpoint.host, endpoint.port)
    reach = found[0][1]
    if not chosen and _is_nickname(endpoint.host, reach):
        found, chosen = [(socket.AF_INET, "0.0.0.0")], "0.0.0.0"
    failed: Optional[OSError] = None
    for family, address in found:
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((address, endpoint.port))
            listening.listen(2048)
        except OSError as error:
            listening.close()
            failed = error
            continue
        if address in ("0.0.0.0", "::"):
            return listening, reach if reach != address else endpoint.host
        return listening, address
    if failed is not None and failed.errno == errno.EADDRINUSE:
        raise _in_use(endpoint) from failed
    raise GroupError(
        "address",
        f"rank 0 cannot listen on {chosen or endpoint.host}, port {endpoint.port}: {failed}",
        "MASTER_ADDR must be an address of the host that rank 0 runs on: is this rank 0? "
        f"Where others reach it by another address, set {LISTEN}, to 0.0.0.0 for any",
    ) from failed


def _is_nickname(host: str, address: str) -> bool:
    """Return whether a host's name means loopback here, and another address elsewhere.

    Debian's /etc/hosts has 127.0.1.1 for the host's own name, which ranks on other hosts could not
    reach.
    """
    if host in ("localhost", address) or not address.startswith("127."):
        return False
    return not one_host()


def _in_use(endpoint: Endpoint) -> GroupError:
    return GroupError(
        "port_in_use",
        f"rank 0 cannot serve the store: port {endpoint.port} of {endpoint.host} is in use",
        "is another job, another rank 0, or one that has not ended yet, using it? "
        "Else choose another MASTER_PORT",
    )


def connect(
    endpoint: Endpoint, timeout: datetime.timedelta, seconds: float
) -> tuple[Any, store_client.StoreClient]:
    """Return two clients, torch's and ours, of the store that rank 0 or torchrun's agent serves.

    Ours connects first. torch 1.13 holds Python's global lock while it waits for somebody to
    listen, takes whatever it reads for an answer, and waits forever for a silent service.

    Raises:
        NotYet: nobody answers.
        OtherTorch: the store's torch has another protocol.
        GroupError: something else listens there (``not_a_store``).
    """
    limit = min(max(seconds, 0.1), _ATTEMPT_SECONDS)
    address = _reach(endpoint, limit)
    try:
        client = store_client.find(address, endpoint.port, limit)
    except store_client.NotAStore as error:
        raise GroupError(
            "not_a_store",
            f"the service at {endpoint} is not a torch.distributed store",
            "is MASTER_PORT that of another service? Choose a port that is free",
        ) from error
    if client is None:
        raise NotYet("the service there does not answer as a store does")
    if client.dialect != store_client.own_dialect():
        raise OtherTorch(client)
    # Short: torch tries again and again, without looking whether it should stop.
    options = _options(datetime.timedelta(seconds=2))
    try:
        store = dist.TCPStore(address, endpoint.port, None, False, **options)
    except RuntimeError as error:
        client.close()
        raise NotYet(f"the service there does not answer as a store does: {error}") from error
    store.set_timeout(timeout)
    return store, client


def _reach(endpoint: Endpoint, seconds: float) -> str:
    failed: Optional[OSError] = None
    for _, address in _resolve(endpoint.host, endpoint.port):
        try:
            socket.create_connection((address, endpoint.port), timeout=seconds).close()
            return address
        except OSError as error:
            failed = error
    raise NotYet(f"cannot connect: {failed}") from failed


def _resolve(host: str, port: int) -> list[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NotYet(f"cannot resolve {host!r}: {error}") from error
    return sorted({(int(f), str(a[0])) for f, _, _, _, a in found})  # IPv4 first


def agents(store: store_client.StoreClient) -> int:
    """Return how many of torchrun's agents are among ``store.workers()``.

    An agent of the static rendezvous is a worker of its own store, where it also keeps the
    roles of its ranks (torch/distributed/elastic: static_tcp_rendezvous.py, agent/server/api.py).
    With TORCH_ELASTIC_WORKER_IDENTICAL it keeps none; then the rendezvous is taken for static.
    The store that a c10d rendezvous shares with its ranks counts no agents.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID", "")
    static = os.environ.get("TORCH_ELASTIC_WORKER_IDENTICAL") == "1" or any(
        store.peek(f"/{run}/torchelastic/role_info{rank_0}") is not None for rank_0 in ("/0", "0")
    )  # torch 2.x's key, and 1.13's
    return int(os.environ.get("GROUP_WORLD_SIZE", "0")) if static else 0


def publish(store: Any, key: str, value: str) -> None:
    """Set a key for ``peek``. ``store`` is torch's, or a ``store_client.StoreClient``."""
    store.set(key, value)
    store.add(f"{key}/set", 1)


def peek(store: Any, key: str) -> Optional[str]:
    """Return the value that another rank published, or None without waiting for it.

    torch 1.13 has no ``check``, and its ``compare_set`` makes the bytes that it returns
    without the GIL, which corrupts memory when another thread runs (torch/csrc/distributed/
    c10d/init.cpp there: ``call_guard<gil_scoped_release>`` around the conversion).
    """
    return str(store.get(key).decode()) if store.add(f"{key}/set", 0) else None
