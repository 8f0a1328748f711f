"""Records a hook inside a PyTorch job, for ``pyhook replay`` and ``pyhook compare``.

    model.register_comm_hook(*pyhook.record(state, hook, "trace/"))

The hook is called as before, with its own state and DDP's own bucket. Around each call a copy of
the buffer is taken before it and one of the result when its future completes; a thread of its own
writes both. docs/trace-format.md describes the files.
"""

from __future__ import annotations

import functools
import multiprocessing.util
import os
import sys
import threading
import warnings
from typing import Any, Callable, Optional

import torch
import torch.distributed as dist

from .._errors import RecordError, StateError
from .._loading.load import check_hook
from .._state.file import has_state, save_hook
from .copies import Copy, of_result
from .describe import describe_hook, describe_state, describe_world
from .layout import Layouts
from .writer import Writer

VERSION = 1
"""Of the manifest."""

_GB = 10**9

_CALL_BYTES = 7000
"""Of a call, beside its tensors: the generator's state, a header, its part of the manifest."""


def record(
    state: Any,
    hook: Callable[..., Any],
    folder: str,
    *,
    steps: int = 10,
    every: int = 1,
    limit_gb: float = 10.0,
    model: Optional[Any] = None,
) -> tuple[Any, Callable[..., Any]]:
    """Return the arguments for ``model.register_comm_hook`` that also record the hook.

    Call it on every rank, after ``init_process_group``. The training computes the bits that it
    would without it. When ``steps`` steps are recorded, the folder is full or a file cannot be
    written, the recording ends and the hook is called alone.

    Args:
        state: the hook's, which it goes on to be given.
        hook: as for ``register_comm_hook``.
        folder: made if need be; each rank writes to ``folder/rank<N>``, which must not hold
            another recording.
        steps: how many steps are recorded.
        every: record each ``every``-th step, the first one of the job included.
        limit_gb: the most that this rank writes, in 10**9 bytes. It ends the recording.
        model: the module, wrapped by DDP or not, whose ``named_parameters()`` name the parameters.

    Raises:
        RecordError: ``no_safetensors``, ``no_group``, ``folder`` (there is a recording already, or
            it cannot be made), ``bad_argument``.
        HookLoadError: ``hook`` cannot be called with (state, bucket).
    """
    check_hook(hook)
    for name, value in (("steps", steps), ("every", every), ("limit_gb", limit_gb)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise RecordError("bad_argument", f"{name}={value!r}: it must be a number above 0")
    for name, value in (("steps", steps), ("every", every)):
        if not isinstance(value, int):
            raise RecordError("bad_argument", f"{name}={value!r}: it must be a whole number")
    if not dist.is_initialized():
        raise RecordError(
            "no_group",
            "there is no process group, so this rank has no number yet",
            "call pyhook.record after torch.distributed.init_process_group",
        )
    recorder = Recorder(state, hook, os.path.abspath(folder), steps, every, limit_gb * _GB, model)

    def recorded(state: Any, bucket: Any) -> Any:
        call = recorder.begin(state, bucket)
        if call is None:
            return hook(state, bucket)
        try:
            future = hook(state, bucket)
        except BaseException as error:
            call.ended({"error": f"{type(error).__name__}: {error}"})
            raise
        return call.completing(future)

    # DDP's checks see the hook: its name, and the annotations of its signature.
    functools.update_wrapper(recorded, hook)
    return state, recorded


class Recorder:
    """One rank's recording. The training's threads call it, and ``Writer`` in its own."""

    def __init__(
        self,
        state: Any,
        hook: Callable[..., Any],
        folder: str,
        steps: int,
        every: int,
        limit: float,
        model: Optional[Any],
    ) -> None:
        self._hook = hook
        self._steps, self._every, self._limit = steps, every, limit
        self._layouts = Layouts(model)
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._over = False
        self._step = -1  # of the calls so far
        self._recorded: list[_Step] = []
        self._current: Optional[_Step] = None
        self.manifest: dict[str, Any] = {
            "format": "pyhook-trace",
            "version": VERSION,
            "complete": False,
            "ended": None,
            "every": every,
            **describe_world(),
            "hook": describe_hook(hook),
            "state": describe_state(hook, state),
            "device": None,
            "parameters": self._layouts.parameters,
            "layouts": self._layouts.list,
        }
        self._bytes = len(repr(self.manifest))
        folder = os.path.join(folder, f"rank{dist.get_rank()}")
        self._writer = Writer(folder, self.manifest, lambda why: self._end("error", why))
        # At the end of this process; atexit is not called where multiprocessing made it.
        multiprocessing.util.Finalize(None, self._program_ends, exitpriority=0)

    def begin(self, state: Any, bucket: Any) -> Optional[_Call]:
        """Take a call's copies, or return None where it is not recorded."""
        if self._over or self._pid != os.getpid():
            return None
        try:
            return self._begin(state, bucket)
        except Exception as error:
            self._end("error", f"{type(error).__name__}: {error}")
            return None

    def _begin(self, state: Any, bucket: Any) -> Optional[_Call]:
        index = int(bucket.index())
        if index == 0:  # DDP calls the hooks of a step in the order of the buckets
            self._next_step(state)
        step = self._current
        if step is None or step.ended or self._over:
            return None
        buffer = bucket.buffer()
        if buffer.layout is not torch.strided:
            step.calls.append({"bucket": index, "skipped": "a sparse gradient"})
            step.last = bool(bucket.is_last())
            self._check_done(step)
            return None
        layout = self._layouts.number(bucket, buffer)
        size = 2 * buffer.numel() * buffer.element_size() + _CALL_BYTES
        if self._would_exceed(size, "the next bucket"):
            return None
        self._writer.wait_for_capacity()
        self.manifest["device"] = str(buffer.device)
        name = f"step{self._step:06d}.bucket{index:04d}.safetensors"
        last = bool(bucket.is_last())
        entry = {
            "bucket": index,
            "layout": layout,
            "is_last": last,
            "file": name,
            "result": None,
        }
        with self._lock:
            step.calls.append(entry)
            step.pending += 1
            step.last = last
        self._bytes += size
        return _Call(self, step, entry, Copy(buffer), torch.get_rng_state(), buffer)

    def _next_step(self, state: Any) -> None:
        self._step += 1
        self._current = None
        if self._step % self._every:
            return
        if len(self._recorded) == self._steps:  # its last step has ended
            return
        grows = self._recorded[-1].bytes if self._recorded else 0
        if self._would_exceed(grows, "the next step"):
            return
        step = _Step(self._step)
        step.start = self._bytes
        if not self._recorded or self._every > 1:
            self._save_state(step, state)
        if self._over:
            return
        self._current = step
        self._recorded.append(step)

    def _would_exceed(self, size: int, what: str) -> bool:
        """End the recording if as many bytes more are above its limit."""
        if self._bytes + self._layouts.bytes + size <= self._limit:
            return False
        self._end("limit", f"{what} would be more than limit_gb={self._limit / _GB:g}")
        return True

    def _save_state(self, step: _Step, state: Any) -> None:
        """Save the state as it is before a step, in the format of ``_state.file``."""
        if not has_state(self._hook, state):
            return
        try:
            data = save_hook(self._hook, state)
        except StateError as error:
            step.unsaved = error.message
            if not self._recorded:
                _warn(
                    f"the hook's state is not in the recording: {error.message}. The hook's calls "
                    "are recorded all the same; a replay of them starts from a state made anew"
                )
            return
        if self._would_exceed(len(data), f"the hook's state of {len(data)} bytes"):
            return
        step.state = f"step{self._step:06d}.state"
        self._bytes += len(data)
        self._writer.bytes(step.state, data)

    def call_ended(self, call: _Call, result: dict[str, Any], copy: Optional[Copy]) -> None:
        """Have a call's file written, and the manifest when it was its step's last one."""
        if self._over:
            return
        step = call.step
        call.entry["result"] = result
        self._writer.tensors(call.entry["file"], call.before, copy, call.random)
        with self._lock:
            if copy is not None:
                self._bytes += copy.bytes - call.before.bytes
            step.pending -= 1
            step.failed = step.failed or copy is None
        self._check_done(step)

    def _end(self, how: str, why: str = "") -> None:
        """End the recording, once: what is whole stays."""
        with self._lock:
            if self._over:
                return
            self._over = True
        if why:
            _warn(
                f"recording ended after {self._writer.steps} of {self._steps} steps: "
                f"{why}. The training goes on"
            )
        self.manifest.update(complete=True, ended=how)
        if why:
            self.manifest["why"] = why
        self._writer.manifest(self.manifest, last=True)
        self._writer.close()

    def _program_ends(self) -> None:
        if self._pid == os.getpid():
            self._end("program")
            self._writer.join()

    def _check_done(self, step: _Step) -> None:
        """Have the manifest written if the step's calls were made and their results are there."""
        with self._lock:
            done = step.last or step.failed  # after a hook that raised DDP calls none
            if self._over or step.ended or not done or step.pending:
                return
            step.ended = True
            step.bytes = self._bytes - step.start
            self._writer.step(step.entry())
        if self._writer.steps == self._steps:
            self._end("steps")
        else:
            self._writer.manifest(self.manifest)


def _warn(text: str) -> None:
    """Warn. It must not raise into the training, whatever the filters are."""
    try:
        warnings.warn(f"pyhook.record: {text}", RuntimeWarning, stacklevel=2)
    except RuntimeWarning as warning:
        print(warning, file=sys.stderr)


class _Step:
    """One recorded step."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls: list[dict[str, Any]] = []
        self.pending = 0  # calls whose result is not there
        self.last = False  # the last bucket's call was made
        self.failed = False  # the hook raised, or gave no tensor
        self.ended = False  # it is in the manifest, with these calls
        self.start = self.bytes = 0
        self.state: Optional[str] = None
        self.unsaved: Optional[str] = None

    def entry(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {
            "step": self.number,
            "state": self.state,
            "state_not_saved": self.unsaved,
            "calls": list(self.calls),
        }


class _Call:
    """One recorded call of the hook."""

    def __init__(
        self,
        recorder: Recorder,
        step: _Step,
        entry: dict[str, Any],
        copy: Copy,
        random: torch.Tensor,
        buffer: torch.Tensor,
    ) -> None:
        self._recorder, self._buffer = recorder, buffer
        self.step, self.entry, self.before, self.random = step, entry, copy, random

    def completing(self, future: Any) -> Any:
        """Return the future for DDP: it completes, with the same value, when that is copied."""
        if not isinstance(future, torch._C.Future):
            self.ended({"error": f"the hook returned {type(future).__name__} and no future"})
            return future  # what DDP says of it is DDP's
        return future.then(self._completed)

    def _completed(self, future: Any) -> Any:
        try:
            value = future.value()
        except BaseException as error:
            self.ended({"error": f"{type(error).__name__}: {error}"})
            raise
        try:
            result, copy = of_result(value, self._buffer)
            self.ended(result, copy)
        except Exception as error:
            self._recorder._end("error", f"{type(error).__name__}: {error}")
        return value

    def ended(self, result: dict[str, Any], copy: Optional[Copy] = None) -> None:
        """Hand what came of the call to the recorder. It raises nothing."""
        try:
            self._recorder.call_ended(self, result, copy)
        except Exception as error:
            self._recorder._end("error", f"{type(error).__name__}: {error}")
