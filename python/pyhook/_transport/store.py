"""The store of the default group that is a trainer's own transport."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, Optional

import torch.distributed as dist

from .._errors import GroupError


class TransportStore(dist.Store):  # type: ignore[misc]  # torch is untyped here
    """The default group's store: the trainer's, or one of this process alone.

    torch 1.13 makes its first barriers in the store, by counting. Alone in its
    process, this one asks the transport.
    """

    def __init__(self, shared: Optional[Any]) -> None:
        super().__init__()
        self._shared = shared
        self._values: dict[str, bytes] = {}

    def set(self, key: str, value: Any) -> None:
        if self._shared is not None:
            self._shared.set(key, value)
        else:
            self._values[key] = value if isinstance(value, bytes) else str(value).encode()

    def get(self, key: str) -> bytes:
        if self._shared is not None:
            return bytes(self._shared.get(key))
        return self._values[key]

    def add(self, key: str, amount: int) -> int:
        if self._shared is not None:
            return int(self._shared.add(key, amount))
        if "store_based_barrier_key" in key:
            world = dist.group.WORLD
            if amount > 0:
                world.barrier().wait()
            return int(world.size())
        total = int(self._values.get(key, b"0")) + amount
        self._values[key] = str(total).encode()
        return total

    def check(self, keys: Sequence[str]) -> bool:
        if self._shared is not None:
            return bool(self._shared.check(list(keys)))
        return all(key in self._values for key in keys)

    def wait(self, keys: Sequence[str], timeout: Optional[datetime.timedelta] = None) -> None:
        if self._shared is not None:
            self._shared.wait(list(keys), *([] if timeout is None else [timeout]))
        elif not self.check(keys):
            raise GroupError(
                "timeout",
                f"{', '.join(keys)} is in no other rank's reach: the store is this process's alone",
                "give InstallTransport a Store that the ranks share",
            )

    def delete_key(self, key: str) -> bool:
        if self._shared is not None:
            return bool(self._shared.delete_key(key))
        return self._values.pop(key, None) is not None

    def num_keys(self) -> int:
        return int(self._shared.num_keys()) if self._shared is not None else len(self._values)
