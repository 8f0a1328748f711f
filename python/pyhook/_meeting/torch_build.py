"""What this build of torch can do."""

from __future__ import annotations

import datetime
import functools
from typing import Any

import torch
import torch.distributed as dist


def backends() -> dict[str, bool]:
    """Return which of gloo, nccl, mpi, ucc and xccl this build of torch has."""
    found = {}
    for name in ("gloo", "nccl", "mpi", "ucc", "xccl"):
        available = getattr(dist, f"is_{name}_available", None)
        found[name] = bool(available()) if available is not None else False
    return found


@functools.cache
def libuv_works() -> bool:
    """Return whether a TCPStore with libuv can be made, by one try on a free loopback port.

    It cannot on torch < 2.3 (which has no such option and needs none) and in builds without libuv,
    which have the option all the same.
    """
    limit = datetime.timedelta(seconds=5)
    try:
        dist.TCPStore("127.0.0.1", 0, 1, True, timeout=limit, use_libuv=True)
    except Exception:
        return False
    return True


def torch_version() -> tuple[int, int]:
    """Return torch's major and minor version."""
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def gloo_of_one() -> Any:
    """Make a gloo backend of this process alone, which meets nobody."""
    return dist.ProcessGroupGloo(dist.HashStore(), 0, 1, datetime.timedelta(seconds=30))
