"""A collective over a trainer's own transport."""

from __future__ import annotations

import datetime
import threading
from typing import Any, Optional

import torch
import torch.distributed as dist

from .._device.streams import synchronize
from .._errors import GroupError


class TransportWork(dist._Work):  # type: ignore[misc]  # torch is untyped here
    """One collective that was issued.

    The Go side holds it until it is done: torch < 2.14 may hold its C++ half alone, and without
    its Python half these methods are gone.
    """

    def __init__(self, result: list[Any], copies: list[tuple[Any, Any]]) -> None:
        super().__init__()
        self._future = torch.futures.Future()
        self._result = result
        self._copies = copies
        self._error: Optional[GroupError] = None
        self._pyhook_held = True  # by the Go side: see issued.Issued.dropped

    def _finish(self, error: Optional[str]) -> None:
        """Complete the future. Go calls it once."""
        if error is None:
            try:
                for tensor, staged in self._copies:
                    tensor.copy_(staged)
                for device in {tensor.device for tensor, _ in self._copies}:
                    synchronize(device)
            except Exception as problem:
                error = f"copying the result: {problem}"
        self._copies, self._pyhook_held = [], False
        if error is None:
            self._future.set_result(self._result)
        else:
            self._error = GroupError("transport", error)
            self._future.set_exception(self._error)

    def wait(self, timeout: Optional[datetime.timedelta] = None) -> bool:
        if timeout and not self._future.done():
            done = threading.Event()
            self._future.add_done_callback(lambda _: done.set())
            if not done.wait(timeout.total_seconds()):
                raise GroupError("timeout", f"the collective is not done after {timeout}")
        self._future.wait()
        return True

    def get_future(self) -> Any:
        return self._future

    def is_completed(self) -> bool:
        return bool(self._future.done())

    def is_success(self) -> bool:
        return self.is_completed() and self._error is None

    def exception(self) -> Optional[GroupError]:
        return self._error

    def result(self) -> list[Any]:
        self._future.wait()
        return self._result

    def synchronize(self) -> None:
        self._future.wait()
