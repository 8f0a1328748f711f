"""Finds the address that gloo listens on, and a better one where that is loopback by mistake.

gloo takes the first address of the host's own name that it can bind to
(torch/csrc/distributed/c10d/ProcessGroupGloo.cpp, ``createDefaultDevice``). Debian's installer
writes 127.0.1.1 for that name into /etc/hosts, which no other host can reach: all ranks meet, and
then wait for each other until the timeout. The right address is the one from which this host
reaches another rank; ``GLOO_SOCKET_IFNAME`` gives its interface to gloo.
"""

from __future__ import annotations

import ctypes
import functools
import os
import socket
import struct
from collections.abc import Iterable

VARIABLE = "GLOO_SOCKET_IFNAME"


def is_loopback(address: str) -> bool:
    """Return whether only this host can reach the address."""
    return address.startswith(("127.", "::ffff:127.")) or address == "::1"


def machine() -> str:
    """Return a name of this machine: processes have the same one if they share a loopback."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/net')}"
    except OSError:  # not Linux, or no /proc
        return socket.gethostname()


def default_address() -> str:
    """Return the address that gloo chooses by itself."""
    return _first_own(socket.gethostname())


@functools.cache  # a resolver that does not answer takes seconds
def _first_own(hostname: str) -> str:
    try:
        found = socket.getaddrinfo(hostname, None, type=socket.SOCK_STREAM)
    except OSError:
        found = []
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as bound:
                bound.bind(address)
            return str(address[0])
        except OSError:
            continue
    return "127.0.0.1"


def local_address(host: str, port: int) -> str:
    """Return the address from which this host reaches another, or "". Nothing is sent."""
    try:
        found = socket.getaddrinfo(host, port or 1, type=socket.SOCK_DGRAM)
    except OSError:
        return ""
    for family, kind, protocol, _, address in sorted(found, key=lambda f: f[0]):  # IPv4 first
        try:
            with socket.socket(family, kind, protocol) as connected:
                connected.connect(address)
                return str(connected.getsockname()[0])
        except OSError:
            continue
    return ""


def announced(host: str, port: int) -> str:
    """Return where the other ranks will find this one's gloo; "" where that is not known.

    ``host`` and ``port`` are the store's, or empty where that is a file.
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen:
        own = [address for name, address in _addresses() if name == chosen]
        return own[0] if own else ""
    address = default_address()
    if not is_loopback(address) or not host:
        return address
    return local_address(host, port) or address


def choose(host: str, port: int, others: Iterable[str]) -> bool:
    """Have gloo listen where other hosts can reach it.

    Where ``GLOO_SOCKET_IFNAME`` is not set and gloo's own choice is loopback, this sets it in
    ``os.environ`` to the interface that leads to the store, or to one of ``others``.

    Returns:
        False if loopback leads to all of them.
    """
    if os.environ.get(VARIABLE) or not is_loopback(default_address()):
        return True
    for target, number in [(host, port), *((other, 1) for other in others)]:
        address = local_address(target, number) if target else ""
        for name, own in _addresses():
            if own == address and not is_loopback(address):
                os.environ[VARIABLE] = name
                return True
    return False


class _Entry(ctypes.Structure):
    """The first members of getifaddrs(3)'s ``struct ifaddrs``."""


_Entry._fields_ = [
    ("next", ctypes.POINTER(_Entry)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
]


def _addresses() -> list[tuple[str, str]]:
    """Return pairs of an interface's name and an address of it; IPv4 ones come first."""
    libc = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_Entry)()
    if libc.getifaddrs(ctypes.byref(first)) != 0:
        return []
    found: list[tuple[int, str, str]] = []
    entry = first
    while entry:
        here = entry.contents
        if here.address:
            (family,) = struct.unpack("=H", ctypes.string_at(here.address, 2))
            name = os.fsdecode(here.name)
            if family == socket.AF_INET:
                raw = ctypes.string_at(here.address + 4, 4)
                found.append((4, name, socket.inet_ntop(socket.AF_INET, raw)))
            elif family == socket.AF_INET6:
                raw = ctypes.string_at(here.address + 8, 16)
                found.append((6, name, socket.inet_ntop(socket.AF_INET6, raw)))
        entry = here.next
    libc.freeifaddrs(first)
    return [(name, address) for _, name, address in sorted(found, key=lambda f: f[0])]
