"""The processes behind ``pyhook.testing.run_ranks``."""

from __future__ import annotations

import faulthandler
import functools
import io
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import tempfile
import time
import traceback
import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from .. import testing
from .._errors import RankError
from .._loading.load import build_state, construct_state, load_hook
from .._meeting.join import destroy, init_process_group
from .._runtime.bucket import new_bucket
from .._runtime.contract import callback_origin
from .._runtime.parameters import Parameters
from ..capture import hook_and_state

_GRACE_SECONDS = 2.0
"""How long the others may still report after the first rank failed."""


_START_SECONDS = 120.0
"""How long processes may take to start: importing torch on a busy machine is slow."""

_STACK_SIGNAL = getattr(signal, "SIGUSR1", None)
"""Makes a rank write down where it is, even from inside a collective."""


class _Job(NamedTuple):
    hook: Any
    state: Any
    state_kwargs: dict[str, Any]
    gradients: bytes  # torch.save: tensors must not travel as shared memory
    rank: int
    world_size: int
    steps: int
    buckets: int
    timeout: float
    nccl_futures: bool
    folder: str


class _Rank(NamedTuple):
    process: Any
    pipe: Any


class _Failure(NamedTuple):
    time: float
    rank: int
    code: str
    text: str


def run(
    hook: Any,
    gradients_by_rank: Sequence[Sequence[torch.Tensor]],
    *,
    state: Any,
    state_kwargs: dict[str, Any],
    steps: int,
    buckets: int,
    timeout: float,
    nccl_futures: bool,
) -> list[list[torch.Tensor]]:
    """See ``pyhook.testing.run_ranks``."""
    _check_gradients(gradients_by_rank, buckets)
    _check_pickle("hook", hook)
    _check_pickle("state", state)
    context = multiprocessing.get_context("spawn")
    ranks: list[_Rank] = []
    with tempfile.TemporaryDirectory(prefix="pyhook-ranks-") as folder:
        try:
            for rank, gradients in enumerate(gradients_by_rank):
                job = _Job(
                    hook, state, state_kwargs, _dump([g.detach() for g in gradients]), rank,
                    len(gradients_by_rank), steps, buckets, timeout, nccl_futures, folder,
                )  # fmt: skip
                here, there = context.Pipe(duplex=False)
                process = context.Process(target=_main, args=(job, there), daemon=True)
                process.start()
                there.close()
                ranks.append(_Rank(process, here))
            return _Collector(ranks, timeout).run(folder)
        finally:
            for process, pipe in ranks:
                if process.is_alive():
                    process.kill()
                process.join()
                pipe.close()


def _check_gradients(gradients_by_rank: Sequence[Sequence[torch.Tensor]], buckets: int) -> None:
    shapes = [[tuple(g.shape) for g in gradients] for gradients in gradients_by_rank]
    if not shapes or not shapes[0]:
        raise ValueError("run_ranks needs gradients for at least one rank")
    for rank, other in enumerate(shapes):
        if other != shapes[0]:
            raise ValueError(f"rank {rank} has gradients of shapes {other}, rank 0 {shapes[0]}")
    if not 1 <= buckets <= len(shapes[0]):
        raise ValueError(f"{len(shapes[0])} gradients cannot be cut into {buckets} buckets")


def _check_pickle(what: str, value: Any) -> None:
    try:
        pickle.dumps(value)
    except Exception as error:
        raise ValueError(
            f"the {what} cannot be sent to another process ({error}). Give a spec, for example "
            f'"my.{what}s:name", or a function of an importable module.'
        ) from error


def _dump(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _load(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu")


class _Collector:
    """What the ranks have said so far. The clock starts when all of them have started."""

    def __init__(self, ranks: list[_Rank], timeout: float) -> None:
        self.ranks = ranks
        self.timeout = timeout
        self.deadline = time.monotonic() + timeout + _START_SECONDS
        self.starting = set(range(len(ranks)))
        self.waiting = dict(enumerate(ranks))
        self.results: dict[int, list[torch.Tensor]] = {}
        self.failures: list[_Failure] = []

    def run(self, folder: str) -> list[list[torch.Tensor]]:
        """Wait for all; after the first failure give the others a moment, then report."""
        while self.waiting:
            pipes: dict[Any, int] = {rank.pipe: n for n, rank in self.waiting.items()}
            left = max(self.deadline - time.monotonic(), 0)
            ready: list[Any] = multiprocessing.connection.wait(list(pipes), timeout=left)
            if not ready:
                break
            for pipe in ready:
                self._hear(pipes[pipe])
        if self.failures:
            raise _failed(min(self.failures, key=_blame), self.failures, sorted(self.waiting))
        if self.waiting:
            raise _timed_out(self.waiting, len(self.ranks), self.timeout, folder)
        return [self.results[number] for number in range(len(self.ranks))]

    def _hear(self, number: int) -> None:
        rank = self.ranks[number]
        try:
            what, payload = rank.pipe.recv()
        except (EOFError, OSError):
            rank.process.join(5)
            text = f"the process ended with exit code {rank.process.exitcode} without a word"
            what, payload = "failed", (time.time(), "died", text)
        if what == "started":
            self.starting.discard(number)
            if not self.starting and not self.failures:
                self.deadline = time.monotonic() + self.timeout
            return
        del self.waiting[number]
        if what == "done":
            self.results[number] = _load(payload)
            return
        self.failures.append(_Failure(payload[0], number, payload[1], payload[2]))
        self.deadline = min(self.deadline, time.monotonic() + _GRACE_SECONDS)


def _blame(failure: _Failure) -> tuple[bool, float]:
    """The earliest failure, but one that only saw another rank go away comes last."""
    text = failure.text
    gone = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return any(words in text for words in gone), failure.time


def _failed(first: _Failure, failures: list[_Failure], silent: list[int]) -> RankError:
    message = f"rank {first.rank} failed:\n{first.text.rstrip()}"
    others = sorted(failure.rank for failure in failures if failure.rank != first.rank)
    if others:
        message += f"\nafter it failed: rank {', '.join(map(str, others))}"
    if silent:
        message += f"\nstill waiting, and stopped: rank {', '.join(map(str, silent))}"
    hint = ""
    if first.code == "died":
        hint = (
            "a script that calls run_ranks needs `if __name__ == '__main__':`; otherwise the "
            "hook crashed the process: run it with testing.run under python -X faulthandler"
        )
    return RankError(first.code, message, hint, first.rank, first.text)


def _timed_out(waiting: dict[int, _Rank], size: int, timeout: float, folder: str) -> RankError:
    for rank in waiting.values():
        if _STACK_SIGNAL is not None and rank.process.is_alive():
            os.kill(rank.process.pid, _STACK_SIGNAL)
    time.sleep(0.5)
    stacks = []
    for number in sorted(waiting):
        try:
            with open(_stack_file(folder, number), encoding="utf-8", errors="replace") as file:
                text = file.read().rstrip()
        except OSError:
            text = "(it had not started)"
        stacks.append(f"rank {number} was at:\n{text}")
    text = "\n".join(stacks)
    return RankError(
        "timeout",
        f"{len(waiting)} of {size} ranks were not done after {timeout:g} s\n{text}",
        "do all ranks call the same collectives in the same order? A collective issued in a "
        "`then` callback runs in an order of its own on gloo",
        min(waiting),
        text,
    )


def _stack_file(folder: str, rank: int) -> str:
    return os.path.join(folder, f"stack-{rank}")


def _main(job: _Job, pipe: Any) -> None:
    """One rank: the whole life of its process."""
    with open(_stack_file(job.folder, job.rank), "w") as stacks:
        if _STACK_SIGNAL is not None:
            faulthandler.register(_STACK_SIGNAL, file=stacks)
        torch.set_num_threads(1)
        pipe.send(("started", None))
        try:
            with testing._loopback():
                group = init_process_group(
                    "gloo",
                    None,
                    job.rank,
                    job.world_size,
                    job.timeout + _START_SECONDS,
                    store=dist.FileStore(os.path.join(job.folder, "store"), job.world_size),
                )
            result = _dump(_steps(job, group))
            dist.barrier()  # nobody leaves while another still needs it
        except BaseException as error:
            pipe.send(("failed", (time.time(), "failed", _describe(error))))
            pipe.close()
            os._exit(1)  # destroying a group with a failed collective can hang
        pipe.send(("done", result))
        pipe.close()
        destroy()


def _describe(error: BaseException) -> str:
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    origin = callback_origin(error)
    if origin is not None:
        text += f"\nraised in a `then` callback: {origin.type}: {origin.message}\n{origin.frames}"
    return text


def _steps(job: _Job, group: Any) -> list[torch.Tensor]:
    gradients = _load(job.gradients)
    ends = [len(gradients) * (i + 1) // job.buckets for i in range(job.buckets)]
    parts = [gradients[start:end] for start, end in zip([0, *ends], ends)]
    originals = [testing.bucket(part, index=i, count=len(parts)) for i, part in enumerate(parts)]
    parameters = Parameters([p for original in originals for p in original.parameters()])
    hook = load_hook(job.hook, group, parameters) if isinstance(job.hook, str) else job.hook
    state = job.state
    if isinstance(state, str):
        state = build_state(state, job.state_kwargs, group, parameters)
    elif isinstance(state, (type, types.FunctionType, types.MethodType, functools.partial)):
        state = construct_state(state, job.state_kwargs, group, parameters)
    if state is None:
        hook, state = hook_and_state(hook, False, group, parameters)
    layouts = [original._layout for original in originals]
    values = [layout.tensor.clone() for layout in layouts]
    results = []
    for _ in range(job.steps):
        flat = []
        for layout, value in zip(layouts, values):
            layout.tensor.copy_(value)
            result = testing.run(
                hook, state, new_bucket(layout), job.timeout, nccl_futures=job.nccl_futures
            )
            flat.append(result.clone())
        results.append(torch.cat(flat))
    return results
