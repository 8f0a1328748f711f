"""Join a torch.distributed process group, and find out what it can do."""

from __future__ import annotations

import atexit
import datetime
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any, Optional

from . import _torch  # noqa: F401  (first: a clear error when torch is missing)

# isort: split
import torch
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout

from . import _rendezvous
from ._errors import GroupError

_libuv: Optional[bool] = None


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
            seconds = meeting_seconds or timeout_seconds or _rendezvous.MEETING_SECONDS
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

_meeting: Optional[_rendezvous.Meeting] = None


def _meet_and_init(
    method: str, rank: int, size: int, seconds: float, options: dict[str, Any]
) -> None:
    global _meeting
    gloo = "gloo" in options["backend"]
    with _rendezvous.Meeting(method, rank, size, seconds, gloo) as _meeting:
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


def backends() -> dict[str, bool]:
    """Which of gloo, nccl, mpi, ucc and xccl this build of torch has."""
    found = {}
    for name in ("gloo", "nccl", "mpi", "ucc", "xccl"):
        available = getattr(dist, f"is_{name}_available", None)
        found[name] = bool(available()) if available is not None else False
    return found


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


def _group(group: Optional[Any]) -> Any:
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
    group = _group(group)
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
    if dist.is_initialized():
        (_kept if keep else _leaving).append(dist.group.WORLD)
        dist.destroy_process_group()
    _let_go()


def _let_go() -> bool:
    """Drop the groups that only ``_leaving`` refers to. Whether there are none left."""
    for i in reversed(range(len(_leaving))):
        if sys.getrefcount(_leaving[i]) <= _ALONE:
            del _leaving[i]
    return not _leaving


_ALONE = 2  # the list's reference, and the argument


@atexit.register
def _let_go_of_all() -> None:
    limit = time.monotonic() + 1
    while not _let_go() and time.monotonic() < limit:
        time.sleep(0.01)
    _leaving.clear()


PROBED = (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
    "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip


def probe_allreduce_dtypes(
    group: Optional[Any] = None,
    dtypes: Optional[Sequence[str]] = None,
    device: Optional[Any] = None,
) -> dict[str, Optional[str]]:
    """Really all-reduce each dtype over ``group``: None, or the error's text.

    A collective: every rank calls it, with the same arguments. All ranks get
    the same set of dtypes that work. A dtype that one rank cannot reduce at all
    (another torch build) would leave the others waiting in it, so each rank
    first tries alone on a throw-away group of one (gloo), the ranks agree by an
    int32 all-reduce, and only what all of them can do is tried together.

    Args:
        dtypes: names as in ``torch.<name>``; names that torch lacks are left
            out. Default: ``PROBED``.
        device: default: CPU, or the current CUDA device on nccl.
    """
    group = _group(group)
    backend = describe_group(group)["backend"]
    if device is None:
        device = "cuda" if "nccl" in backend and "gloo" not in backend else "cpu"
    names = list(PROBED if dtypes is None else dtypes)
    alone = _group_of_one() if "gloo" in backend and str(device) == "cpu" else None
    errors = [_try_alone(name, alone) for name in names]
    agreed = _agree([error is None for error in errors], group, device)
    for i, name in enumerate(names):
        if agreed[i]:
            errors[i] = _try_together(name, group, device)
        elif errors[i] is None:
            errors[i] = "another rank cannot all-reduce this dtype"
    agreed = _agree([error is None for error in errors], group, device)
    result = {}
    for name, error, works in zip(names, errors, agreed):
        if not hasattr(torch, name):
            continue
        result[name] = None if works else error or "the all-reduce failed on another rank"
    return result


def _agree(mine: list[bool], group: Any, device: Any) -> list[bool]:
    flags = torch.tensor([int(flag) for flag in mine], dtype=torch.int32, device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MIN, group=group)
    return [bool(flag) for flag in flags.tolist()]


def _group_of_one() -> Optional[Any]:
    """A gloo group without a rendezvous; None where this torch cannot make one."""
    try:
        return dist.ProcessGroupGloo(dist.HashStore(), 0, 1, datetime.timedelta(seconds=30))
    except Exception:
        return None


def _try_alone(name: str, alone: Optional[Any]) -> Optional[str]:
    dtype = getattr(torch, name, None)
    if dtype is None:
        return f"torch has no {name}"
    if alone is None:
        return None  # no cheap way; the attempt with all ranks will tell
    try:
        tensor = torch.zeros(2).to(dtype)
        # As dist.all_reduce does (distributed_c10d.py): complex goes as reals.
        alone.allreduce([torch.view_as_real(tensor) if dtype.is_complex else tensor]).wait()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _try_together(name: str, group: Any, device: Any) -> Optional[str]:
    try:
        tensor = torch.ones(2).to(device=device, dtype=getattr(torch, name))
        dist.all_reduce(tensor, group=group)
        got = complex(tensor[0].to(torch.complex128).item())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    # A sum of ones: or, for bool, True. Small floats round a large world's size.
    expected = 1 if name == "bool" else int(group.size())
    if name.startswith(("float", "bfloat", "complex")) and abs(got - expected) <= 0.1 * expected:
        return None
    if name in ("int8", "uint8") and int(got.real) % 256 == expected % 256:
        return None
    return None if got == expected else f"the sum of {group.size()} ones came out as {got}"
