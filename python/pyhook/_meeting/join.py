"""Join a torch.distributed process group, and find out what it can do."""

from __future__ import annotations

import atexit
import datetime
import os
import re
import sys
import time
from typing import Any, Optional

import torch
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout

from .._errors import GroupError
from .._renewal import retired
from .drop import drop
from .meeting import MEETING_SECONDS, Meeting
from .torch_build import backends


def init_process_group(
    backend: Optional[str],
    init_method: Optional[str],
    rank: int,
    world_size: int,
    timeout_seconds: float,
    store: Optional[Any] = None,
    meeting_seconds: float = 0,
) -> Any:
    """Join the default process group and return it.

    Args:
        backend: "gloo", "nccl", ..., or "cpu:gloo,cuda:nccl". None or "":
            nccl where CUDA is there, else gloo.
        init_method: "env://", "tcp://host:port", "file://path". None with a
            store, or with a world of one, which needs no rendezvous.
        rank, world_size: of this process; -1 to read RANK and WORLD_SIZE.
        timeout_seconds: for each collective; 0 for PyTorch's default (30 minutes).
        store: a torch.distributed Store to use and not an init_method.
        meeting_seconds: until all ranks have come; 0 for timeout_seconds, and for 5
            minutes where that is 0 too.

    Raises:
        GroupError: see the codes there.

    Ranks meet as ``_rendezvous`` says; those in plain Python can be among them. A "?" at the
    method's end has them meet by torch's own protocol without looking for such ranks. A method
    with a query, or of another kind, is left to torch, as is a store.
    """
    if dist.is_initialized():
        raise GroupError(
            "already_initialized",
            "torch.distributed has a default process group already",
            "call pyhook's destroy(), or torch.distributed.destroy_process_group(), before",
        )
    chosen = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    _require_backend(chosen)
    options: dict[str, Any] = {"backend": chosen}
    if timeout_seconds > 0:
        options["timeout"] = datetime.timedelta(seconds=timeout_seconds)
    if store is None and not init_method and world_size == 1:
        store = dist.HashStore()
    method = "" if store is not None else init_method or "env://"
    where = method or "the given store"
    try:
        ours = _OURS.fullmatch(method)
        if ours or "?" not in method:
            rank, world_size = _rank_and_size(rank, world_size)
        options.update(rank=rank, world_size=world_size)
        if store is not None:
            dist.init_process_group(store=store, **options)
        elif ours:
            seconds = meeting_seconds or timeout_seconds or MEETING_SECONDS
            _meet_and_init(method, rank, world_size, seconds, options)
        else:
            dist.init_process_group(init_method=method, **options)
    except GroupError:
        raise
    except Exception as error:
        raise _init_error(
            error, f"rank {rank} of {world_size}", where, chosen, timeout_seconds
        ) from error
    return dist.group.WORLD


_OURS = re.compile(r"(env|tcp|file)://[^?]*\??")

_meeting: Optional[Meeting] = None


def _meet_and_init(
    method: str, rank: int, size: int, seconds: float, options: dict[str, Any]
) -> None:
    global _meeting
    gloo = "gloo" in options["backend"]
    with Meeting(method, rank, size, seconds, gloo) as _meeting:
        meeting = _meeting
        try:
            store = meeting.store()
            dist.init_process_group(store=store, **options)
            # It had what was left of the meeting's time; from here on it serves the group.
            store.set_timeout(options.get("timeout", default_pg_timeout))
        except Exception as error:
            if isinstance(error, GroupError):
                raise
            low = str(error).lower()
            gone = ("connect", "broken pipe", "failed to recv")
            if not meeting.over() and not any(words in low for words in gone):
                raise
            raise GroupError(
                "timeout" if meeting.over() else "peer",
                f"rank {rank} of {size} could not join at {meeting.endpoint}, for {seconds:g} s: "
                f"{type(error).__name__}: {error}",
                _PLAIN_HINT
                if meeting.plain
                else "all ranks met there, but one did not answer then: look at their own errors",
            ) from error
        finally:
            _meeting = None


_PLAIN_HINT = (
    "the ranks met by torch's own protocol, which names nobody: was each rank started once, with "
    "one WORLD_SIZE, one torch and one backend? Where torchrun restarted them, set "
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun (pytorch#167288)"
)


def stop_joining() -> None:
    """End an ``init_process_group`` that waits, on another thread, for other ranks.

    It raises soon after, except inside the backend's own start, which ends by the timeout.
    """
    meeting = _meeting
    if meeting is not None:
        meeting.stop()


def _rank_and_size(rank: int, size: int) -> tuple[int, int]:
    """Return the rank and the world's size, from the environment where they are negative."""
    rank, size = (
        given if given >= 0 or size > 0 else _from_environment(name)
        for given, name in ((rank, "RANK"), (size, "WORLD_SIZE"))
    )
    if size < 1:
        raise GroupError("world_size", f"a world of {size}", "WORLD_SIZE is the number of ranks")
    if not 0 <= rank < size:
        raise GroupError(
            "rank",
            f"rank {rank} of {size}",
            f"RANK goes from 0 to WORLD_SIZE - 1, which is {size - 1}",
        )
    return rank, size


def _from_environment(name: str) -> int:
    text = os.environ.get(name, "")
    try:
        return int(text)
    except ValueError:
        raise GroupError(
            "rendezvous",
            f"{name} is {text!r}, which is not a number" if text else f"{name} is not set",
            "set it, start the program by a launcher, or give rank and size",
        ) from None


def _init_error(error: Exception, who: str, where: str, backend: str, timeout: float) -> GroupError:
    text = f"{type(error).__name__}: {error}"
    limit = f" in {timeout:g} s" if timeout > 0 else ""
    low = text.lower()
    if "timed out" in low or "timeout" in low:
        return GroupError(
            "timeout",
            f"{who} could not join by {where}{limit}: {text}",
            "were all ranks started, with one MASTER_ADDR, MASTER_PORT and WORLD_SIZE, "
            "and is the port open between them?",
        )
    if isinstance(error, ValueError) or "address already in use" in low or "eaddrinuse" in low:
        return GroupError("rendezvous", f"{who} could not join by {where}: {text}")
    return GroupError("init_failed", f"{who} could not start {backend}: {text}")


def _require_backend(backend: str) -> None:
    built_in = backends()
    registered = {str(name).lower() for name in getattr(dist.Backend, "backend_list", [])}
    for part in backend.lower().split(","):
        name = part.rpartition(":")[2].strip()
        if built_in.get(name, name in registered):
            continue
        has = sorted({n for n, there in built_in.items() if there} | registered - set(built_in))
        has = [n for n in has if n not in ("undefined", "fake", "threaded")]
        raise GroupError(
            "no_backend",
            f"torch {torch.__version__} was built without the backend {name!r}",
            f"it has {', '.join(has) or 'none'}",
        )


def default_group(group: Optional[Any]) -> Any:
    if group is not None:
        return group
    if not dist.is_initialized():
        raise GroupError("not_initialized", "there is no default process group")
    return dist.group.WORLD


def describe_group(group: Optional[Any] = None) -> dict[str, Any]:
    """``{"rank": int, "size": int, "backend": str}`` of a group, or the default one.

    Groups that only look like one (``rank()`` and ``size()``) will do; their
    backend is their type's name.
    """
    group = default_group(group)
    try:
        backend = str(dist.get_backend(group))
    except Exception:
        backend = type(group).__name__
    return {"rank": int(group.rank()), "size": int(group.size()), "backend": backend}


_kept: list[Any] = []  # until the process ends
_leaving: list[Any] = []  # until nothing else refers to them


def destroy(keep: bool = False) -> None:
    """Destroy the default group and all others. Nothing happens if there is none.

    The last reference to a group may sit in a hook's closure, which is dropped on a
    thread of gloo's own. That thread then joins itself, and the process is gone (seen
    on torch 1.13: "terminate called", and 2.14: std::system_error). So the group's
    object is let go of here, later: when nothing else refers to it, or at exit.

    Args:
        keep: keep the object for good. For the Go side, whose interpreter is never
            finalised; where it is, a group that is kept aborts the process as its
            threads are torn down (seen on torch 1.13).
    """
    if retired.default_is_retired():
        retired.set_default(None)
    if dist.is_initialized():
        (_kept if keep else _leaving).append(dist.group.WORLD)
        dist.destroy_process_group()
    _let_go()


def _let_go() -> bool:
    """Drop the groups that only ``_leaving`` refers to. Whether there are none left."""
    for i in reversed(range(len(_leaving))):
        if sys.getrefcount(_leaving[i]) <= _ALONE:
            drop(_leaving, i)
    return not _leaving


_ALONE = 2  # the list's reference, and the argument


@atexit.register
def _let_go_of_all() -> None:
    limit = time.monotonic() + 1
    while not _let_go() and time.monotonic() < limit:
        time.sleep(0.01)
    _leaving.clear()
