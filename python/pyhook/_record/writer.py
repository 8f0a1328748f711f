"""A thread that writes a recording's files.

Each file is written beside its name and moved there whole, and the manifest that names it comes
after it: whatever ends the program, a manifest names whole files only.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import stat
import threading
import time
from typing import Any, Callable, Optional

import torch

from .._errors import RecordError
from .copies import Copy

_PENDING = 1 << 30
"""Bytes of copies that may wait to be written. The training waits for the disk above it."""

_MANY = 100
"""Steps above which the manifest, which has all of them, is not written after each."""

try:
    from safetensors.torch import save_file
except ImportError as error:
    raise RecordError(
        "no_safetensors",
        f"pyhook.record writes tensors by safetensors, which cannot be imported ({error})",
        "pip install safetensors (or pyhook[record])",
    ) from error


class Writer:
    """Writes into one folder. It ends by ``close`` or by the first file that it cannot write."""

    def __init__(
        self, folder: str, manifest: dict[str, Any], failed: Callable[[str], None]
    ) -> None:
        self._folder, self._report = folder, failed
        self._step_texts: list[str] = []
        self._written = 0.0  # when a manifest was given to be written
        try:
            os.makedirs(folder, exist_ok=True)
            there = os.listdir(folder)
            if there:
                raise RecordError(
                    "folder",
                    f"{folder} holds {there[0]} already",
                    "give another folder, or remove the recording that is there",
                )
            self._mode: Optional[int] = None
            self._replace("manifest.json", lambda path: _write(path, _text(manifest, [])))
            # Some safetensors give their files to nobody but this user.
            self._mode = stat.S_IMODE(os.stat(os.path.join(folder, "manifest.json")).st_mode)
        except OSError as error:
            raise RecordError("folder", f"{folder} cannot be written: {error}") from error
        self.failed = False
        self._jobs: queue.SimpleQueue[Optional[tuple[Callable[[], None], int]]] = (
            queue.SimpleQueue()
        )
        self._changed = threading.Condition()
        self._pending = 0
        self._thread = threading.Thread(target=self._run, name="pyhook.record", daemon=True)
        self._thread.start()

    def wait_for_capacity(self) -> None:
        """Wait while more than ``_PENDING`` bytes are to be written."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending <= _PENDING or self.failed)

    def tensors(self, name: str, before: Copy, result: Optional[Copy], random: Any) -> None:
        """Write one call's file."""
        copies = {"input": before} if result is None else {"input": before, "result": result}

        def write() -> None:
            content = {key: _storable(copy.on_cpu()) for key, copy in copies.items()}
            content["random"] = random
            self._replace(name, lambda path: save_file(content, path))

        self._put(write, sum(copy.bytes for copy in copies.values()))

    def bytes(self, name: str, data: bytes) -> None:
        """Write a file of bytes."""
        self._put(lambda: self._replace(name, lambda path: _write(path, data)), len(data))

    def step(self, entry: dict[str, Any]) -> None:
        """Add a step to the manifests that are written from now on."""
        self._step_texts.append(json.dumps(entry, allow_nan=False))

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self._step_texts)

    def manifest(self, manifest: dict[str, Any], last: bool = False) -> None:
        """Write the manifest with its steps, but one of many steps once a second only."""
        now = time.monotonic()
        if last or self.steps <= _MANY or now - self._written >= 1:
            self._written = now
            self.bytes("manifest.json", _text(manifest, self._step_texts))

    def close(self) -> None:
        """Have the thread end after what was given to it so far."""
        self._jobs.put(None)

    def join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()

    def _put(self, write: Callable[[], None], size: int) -> None:
        with self._changed:
            self._pending += size
        self._jobs.put((write, size))

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            write, size = job
            if not self.failed:
                try:
                    write()
                except Exception as error:  # a full disk is safetensors' own exception
                    self.failed = True
                    self._report(f"{self._folder} cannot be written: {error}")
            del job, write
            with self._changed:
                self._pending -= size
                self._changed.notify_all()

    def _replace(self, name: str, write: Callable[[str], Any]) -> None:
        path = os.path.join(self._folder, name)
        try:
            write(path + ".tmp")
            if self._mode is not None:
                os.chmod(path + ".tmp", self._mode)
            os.replace(path + ".tmp", path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(path + ".tmp")
            raise


def _text(manifest: dict[str, Any], steps: list[str]) -> bytes:
    head = json.dumps(manifest, allow_nan=False)[:-1]
    return f'{head}, "steps": [{", ".join(steps)}]}}'.encode()


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _storable(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in a dtype that every safetensors has; the manifest knows the real one."""
    if tensor.is_complex():
        return torch.view_as_real(tensor).reshape(-1)
    return tensor if str(tensor.dtype) in _STORABLE else tensor.view(torch.uint8)


_STORABLE = {
    "torch.float64",
    "torch.float32",
    "torch.float16",
    "torch.bfloat16",
    "torch.float8_e4m3fn",
    "torch.float8_e5m2",
    "torch.int64",
    "torch.int32",
    "torch.int16",
    "torch.int8",
    "torch.uint8",
    "torch.bool",
}
