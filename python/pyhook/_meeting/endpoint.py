"""The address of the store where ranks meet."""

from __future__ import annotations

import os
from typing import NamedTuple

from .._errors import GroupError

LISTEN = "PYHOOK_STORE_LISTEN"
"""The environment variable with the address that rank 0 listens on, if not MASTER_ADDR."""


class Endpoint(NamedTuple):
    """The store's address: a host and a port, or a file."""

    host: str = ""
    port: int = 0
    path: str = ""
    agent: bool = False  # torchrun's agent serves it, and not rank 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{host}:{self.port}"

    @classmethod
    def of(cls, method: str) -> Endpoint:
        """Parse "env://", "tcp://host:port" or "file://path"."""
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
        host = unbracketed(host)
        if not host or not port:
            raise GroupError(
                "rendezvous",
                f"{method} names no host and port",
                "set MASTER_ADDR and MASTER_PORT, or give an InitMethod tcp://host:port",
            )
        if not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise GroupError("address", f"invalid port {port!r}", _port_hint(port))
        return cls(host=host, port=int(port), agent=agent)


def unbracketed(host: str) -> str:
    """Strip the brackets that an IPv6 address has in a URL: no resolver takes them."""
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1]
    if "[" in host or "]" in host:
        raise GroupError(
            "address", f"invalid host {host!r}", "write an IPv6 address as ::1, or as [::1]"
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


def one_host() -> bool:
    """Return whether the launcher says that all ranks are on this host."""
    return os.environ.get("LOCAL_WORLD_SIZE", "") == os.environ.get("WORLD_SIZE", "-")
