"""The store of a default group that is a trainer's own transport, where the ranks share none."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, Optional

import torch.distributed as dist

from .._errors import GroupError


class PrivateStore(dist.Store):  # type: ignore[misc]  # torch is untyped here
    """A store of this process alone.

    torch 1.13 counts ranks in the store for its first barriers: this one asks the transport.
    """

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, bytes] = {}

    def set(self, key: str, value: Any) -> None:
        self._values[key] = value if isinstance(value, bytes) else str(value).encode()

    def get(self, key: str) -> bytes:
        return self._values[key]

    def add(self, key: str, amount: int) -> int:
        if "store_based_barrier_key" in key:
            world = dist.group.WORLD
            if amount > 0:
                world.barrier().wait()
            return int(world.size())
        total = int(self._values.get(key, b"0")) + amount
        self._values[key] = str(total).encode()
        return total

    def check(self, keys: Sequence[str]) -> bool:
        return all(key in self._values for key in keys)

    def wait(self, keys: Sequence[str], timeout: Optional[datetime.timedelta] = None) -> None:
        if not self.check(keys):
            raise GroupError(
                "timeout",
                f"no other rank can set {', '.join(keys)}: the store is this process's alone",
                "give InstallTransport a Store that the ranks share",
            )

    def delete_key(self, key: str) -> bool:
        return self._values.pop(key, None) is not None

    def num_keys(self) -> int:
        return len(self._values)
