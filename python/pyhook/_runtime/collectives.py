"""Collectives and stores for the Go side's ProcessGroup. Each collective returns a future.

All ranks call them in one order, as torch.distributed's own.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, Optional

import torch
import torch.distributed as dist

from .._device.staging import staged
from .._meeting.store_client import NO_LIBUV


def all_reduce(tensor: torch.Tensor, op: str, group: Any) -> Any:
    """Combine ``tensor`` over the ranks, in place. ``op``: SUM, PRODUCT, MIN, MAX."""

    def issue(tensor: torch.Tensor) -> Any:
        return dist.all_reduce(tensor, op=getattr(dist.ReduceOp, op), group=group, async_op=True)

    return staged(issue, [tensor], [], group)


def broadcast(tensor: torch.Tensor, root: int, group: Any) -> Any:
    """Copy rank ``root``'s ``tensor`` (a rank of ``group``) to all, in place."""
    c10d = dist.distributed_c10d
    # The public name is of torch 1.13; the other warns since.
    to_global = getattr(c10d, "get_global_rank", None) or c10d._get_global_rank
    source = root if group is dist.group.WORLD else to_global(group, root)

    def issue(tensor: torch.Tensor) -> Any:
        return dist.broadcast(tensor, src=source, group=group, async_op=True)

    return staged(issue, [tensor], [], group)


def all_gather(out: Sequence[torch.Tensor], tensor: torch.Tensor, group: Any) -> Any:
    """Copy rank i's ``tensor`` to ``out[i]``."""

    def issue(*tensors: torch.Tensor) -> Any:
        return dist.all_gather(list(tensors[:-1]), tensors[-1], group=group, async_op=True)

    return staged(issue, out, [tensor], group)


def barrier(group: Any) -> None:
    """Wait for all ranks."""
    dist.barrier(group=group)


def new_group(ranks: Sequence[int]) -> Optional[Any]:
    """``dist.new_group``; None on a rank outside."""
    group = dist.new_group(list(ranks))
    return group if dist.get_rank() in ranks else None


def tcp_store(host: str, port: int, world_size: int, master: bool, timeout_seconds: float) -> Any:
    """A TCPStore; a timeout of 0 is torch's own."""
    options: dict[str, Any] = dict(NO_LIBUV)
    if timeout_seconds > 0:
        options["timeout"] = datetime.timedelta(seconds=timeout_seconds)
    return dist.TCPStore(host, port, world_size, master, **options)


def file_store(path: str, world_size: int) -> Any:
    """A FileStore."""
    return dist.FileStore(path, world_size)


def abort(group: Any) -> bool:
    """End a group's collectives at once. Return False if its backend cannot.

    torch 2.6 and newer have ``abort`` for every backend, but gloo's does nothing: it does not
    override the empty c10d::Backend::abort (torch/csrc/distributed/c10d/Backend.hpp).
    """
    end = getattr(group, "abort", None)
    if end is None or "nccl" not in str(dist.get_backend(group)):
        return False
    end()
    return True
