"""What this build of torch can do."""

from __future__ import annotations

import datetime
from typing import Optional

import torch
import torch.distributed as dist

_libuv: Optional[bool] = None


def backends() -> dict[str, bool]:
    """Which of gloo, nccl, mpi, ucc and xccl this build of torch has."""
    found = {}
    for name in ("gloo", "nccl", "mpi", "ucc", "xccl"):
        available = getattr(dist, f"is_{name}_available", None)
        found[name] = bool(available()) if available is not None else False
    return found


def libuv_works() -> bool:
    """Whether a TCPStore with libuv can be made. Tried once, on a free loopback port.

    False on torch < 2.3 (which has no such option and needs none) and in builds
    without libuv, which still report the option.
    """
    global _libuv
    if _libuv is None:
        try:
            dist.TCPStore(
                "127.0.0.1", 0, 1, True, timeout=datetime.timedelta(seconds=5), use_libuv=True
            )
            _libuv = True
        except Exception:
            _libuv = False
    return _libuv


def torch_version() -> tuple[int, int]:
    """Return torch's major and minor version."""
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)
