"""The process group over a trainer's own transport, and installing it as the default group.

The Go side (pyhook/transport_python.go) gives two functions: ``open`` makes the Go group of a
torch group, and ``issue`` starts a collective in it. ``issue`` does not block: a goroutine does
the work without the GIL and then calls ``TransportWork._finish``, on a thread of its own for each
work, so a callback may wait for another work.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, Callable, Optional

import torch
import torch.distributed as dist

from .._errors import GroupError
from .._runtime import issued, patches
from .store import PrivateStore
from .work import TransportWork

BACKEND = "pyhook_go"

Open = Callable[[str, Sequence[int], float], int]
Issue = Callable[..., None]

_open: Optional[Open] = None
_issue: Optional[Issue] = None
# torch < 2.14 holds the store's C++ half alone, and without its Python half the methods are gone.
_store: Optional[Any] = None

_OPS = ("SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR")


def install(
    opener: Open,
    issue: Issue,
    rank: int,
    size: int,
    timeout_seconds: float,
    store: Optional[Any] = None,
) -> Any:
    """Make the Go transport the default process group, and return that.

    All ranks call it: on torch 1.13 they wait for each other.

    Args:
        opener: ``opener(name, global_ranks, timeout_seconds)`` returns the number of the Go group
            for a torch group; without ranks, of the default one.
        issue: ``issue(number, work, name, op, peer, tag, outputs, *tensors)``.
        store: where the ranks of sub-groups of other backends meet, if they can.
    """
    global _open, _issue, _store
    if dist.is_initialized():
        raise GroupError(
            "already_initialized",
            "torch.distributed has a default process group already",
            "install the transport before anything joins one, or destroy that group",
        )
    _open, _issue = opener, issue
    _store = PrivateStore() if store is None else store
    if BACKEND.upper() not in dist.Backend._plugins:
        try:
            dist.Backend.register_backend(
                BACKEND, _create, extended_api=True, devices=["cpu", "cuda"]
            )
        except TypeError:  # torch < 2.0
            dist.Backend.register_backend(BACKEND, _create, extended_api=True)
    options: dict[str, Any] = {"timeout": datetime.timedelta(seconds=timeout_seconds)}
    try:
        dist.init_process_group(BACKEND, store=_store, rank=rank, world_size=size, **options)
    except Exception as error:
        uninstall()
        raise GroupError(
            "init_failed", f"the Go transport cannot be the default group: {error}"
        ) from error
    return dist.group.WORLD


def uninstall() -> None:
    """Drop the Go functions, after the groups were destroyed."""
    global _open, _issue, _store
    _open = _issue = _store = None


def _create(options: Any, _: Any) -> TransportProcessGroup:
    ranks = list(options.global_ranks_in_group)
    timeout = options.timeout.total_seconds()
    assert _open is not None
    assert _issue is not None
    number = _open(str(options.group_id), ranks, timeout)
    return TransportProcessGroup(options.group_rank, options.group_size, number, _issue)


def _flat(lists: Sequence[Sequence[Any]]) -> list[Any]:
    return [tensor for tensors in lists for tensor in tensors]


def _split(tensor: Any, sizes: Sequence[int], size: int) -> list[Any]:
    """Return views of ``tensor`` along its first dimension, of equal size if no sizes are given."""
    if sizes:
        return list(tensor.split(list(sizes)))
    if tensor.dim() == 0 or tensor.shape[0] % size:
        raise GroupError(
            "transport", f"a tensor of shape {tuple(tensor.shape)} for a group of {size} ranks"
        )
    return list(tensor.split(max(tensor.shape[0] // size, 1))) or [tensor] * size


def _op(options: Any) -> str:
    op = dist.ReduceOp.SUM if options is None else options.reduceOp
    for name in _OPS:
        if op == getattr(dist.ReduceOp, name):
            return name
    raise GroupError("transport", f"the transport has no {op}", f"it has {', '.join(_OPS)}")


class TransportProcessGroup(dist.ProcessGroup):  # type: ignore[misc]  # torch is untyped here
    """A group of ranks over the Go transport.

    It has the methods that torch.distributed, torch's reducer and hooks call. Newer versions of
    torch have other names for some.
    """

    def __init__(self, rank: int, size: int, number: int, issue: Issue) -> None:
        super().__init__(rank, size)
        self._size = size
        self._rank = rank
        self._number = number
        self._issue = issue
        self._group_name = ""
        self._group_desc = ""

    def getBackendName(self) -> str:
        return BACKEND

    def setGroupName(self, name: str) -> None:
        self._group_name = name

    def getGroupName(self) -> str:
        return self._group_name

    def setGroupDesc(self, description: str) -> None:
        self._group_desc = description

    def getGroupDesc(self) -> str:
        return self._group_desc

    def _get_backend(self, _: Any) -> TransportProcessGroup:
        """Return the group itself, which has no backends that torch could ask."""
        return self

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._size

    getRank = rank  # C++'s names, torch >= 2.6
    getSize = size

    def _start(
        self,
        name: str,
        outputs: Sequence[Any],
        inputs: Sequence[Any] = (),
        op: str = "",
        peer: int = 0,
        tag: int = 0,
        result: Optional[list[Any]] = None,
    ) -> TransportWork:
        copies: list[tuple[Any, Any]] = []
        out = [self._plain(tensor, copies) for tensor in outputs]
        into = [self._plain(tensor, None) for tensor in inputs]
        work = TransportWork(list(outputs) if result is None else result, copies)
        try:
            self._issue(self._number, work, name, op, peer, tag, len(out), *out, *into)
        except RuntimeError as error:
            raise GroupError("transport", str(error)) from error
        return work

    def _plain(self, tensor: Any, copies: Optional[list[tuple[Any, Any]]]) -> Any:
        """Return CPU memory with the values of ``tensor``, a copy if need be."""
        if tensor.layout != torch.strided:
            raise GroupError(
                "transport",
                f"the transport moves dense tensors, not {tensor.layout}",
                "sparse gradients are reduced over a Go transport without a hook, by "
                "pyhook.AllReduceCommHook, or by a hook that gathers indices and values",
            )
        tensor = tensor.detach()
        plain = tensor.resolve_conj().resolve_neg().cpu()
        if plain is not tensor and copies is not None and plain.data_ptr() != tensor.data_ptr():
            copies.append((tensor, plain))
        return plain

    def allreduce(self, tensors: Any, opts: Any = None) -> TransportWork:
        tensors = [tensors] if isinstance(tensors, torch.Tensor) else tensors
        return self._start("all_reduce", tensors, op=_op(opts))

    def allreduce_coalesced(self, tensors: Sequence[Any], opts: Any = None) -> TransportWork:
        return self.allreduce(tensors, opts)

    def reduce(self, tensors: Sequence[Any], opts: Any) -> TransportWork:
        return self._start("reduce", tensors, op=_op(opts), peer=opts.rootRank)

    def broadcast(self, tensors: Any, opts: Any = None) -> TransportWork:
        tensors = [tensors] if isinstance(tensors, torch.Tensor) else tensors
        root = 0 if opts is None else int(getattr(opts, "rootRank", opts))
        return self._start("broadcast", tensors, peer=root)

    def allgather(
        self, outputs: Sequence[Sequence[Any]], inputs: Sequence[Any], opts: Any = None
    ) -> TransportWork:
        return self._start("all_gather", _flat(outputs), inputs)

    def allgather_coalesced(
        self, outputs: Sequence[Sequence[Any]], inputs: Sequence[Any], opts: Any = None
    ) -> TransportWork:
        # outputs[rank][k] (torch/csrc/distributed/c10d/ProcessGroupGloo.cpp)
        by_input = list(zip(*outputs))
        return self._start("all_gather", _flat(by_input), inputs, result=_flat(outputs))

    def _allgather_base(self, output: Any, source: Any, opts: Any = None) -> TransportWork:
        return self.allgather_into_tensor_coalesced([output], [source], opts)

    def allgather_into_tensor_coalesced(
        self, outputs: Sequence[Any], inputs: Sequence[Any], opts: Any = None
    ) -> TransportWork:
        parts = [self._parts(output) for output in outputs]
        return self._start("all_gather", _flat(parts), inputs, result=list(outputs))

    def reduce_scatter(
        self, outputs: Sequence[Any], inputs: Sequence[Sequence[Any]], opts: Any = None
    ) -> TransportWork:
        return self._start("reduce_scatter", outputs, _flat(inputs), op=_op(opts))

    def _reduce_scatter_base(self, output: Any, source: Any, opts: Any = None) -> TransportWork:
        return self.reduce_scatter([output], [self._parts(source)], opts)

    def reduce_scatter_tensor_coalesced(
        self, outputs: Sequence[Any], inputs: Sequence[Any], opts: Any = None
    ) -> TransportWork:
        return self.reduce_scatter(outputs, [self._parts(source) for source in inputs], opts)

    def _parts(self, tensor: Any) -> list[Any]:
        """Return a view for each rank, of equal numbers of elements."""
        if not tensor.is_contiguous() or tensor.numel() % self._size:
            raise GroupError(
                "transport",
                f"a tensor of shape {tuple(tensor.shape)}, strides {tensor.stride()} "
                f"cannot be divided among {self._size} ranks",
            )
        return list(tensor.detach().view(self._size, -1).unbind())

    def alltoall(
        self, outputs: Sequence[Any], inputs: Sequence[Any], opts: Any = None
    ) -> TransportWork:
        return self._start("all_to_all", outputs, inputs)

    def alltoall_base(
        self,
        output: Any,
        source: Any,
        output_sizes: Sequence[int] = (),
        input_sizes: Sequence[int] = (),
        opts: Any = None,
    ) -> TransportWork:
        out = _split(output.detach(), output_sizes, self._size)
        into = _split(source.detach(), input_sizes, self._size)
        return self._start("all_to_all", out, into, result=[output])

    def gather(
        self, outputs: Sequence[Sequence[Any]], inputs: Sequence[Any], opts: Any
    ) -> TransportWork:
        return self._start("gather", _flat(outputs), inputs, peer=opts.rootRank)

    def gather_single(self, output: Any, source: Any, opts: Any) -> TransportWork:
        parts = self._parts(output) if opts.rootRank == self._rank else []
        return self._start("gather", parts, [source], peer=opts.rootRank, result=[output])

    def scatter(
        self, outputs: Sequence[Any], inputs: Sequence[Sequence[Any]], opts: Any
    ) -> TransportWork:
        return self._start("scatter", outputs, _flat(inputs), peer=opts.rootRank)

    def barrier(self, opts: Any = None) -> TransportWork:
        return self._start("barrier", [])

    def send(self, tensors: Sequence[Any], destination: int, tag: int = 0) -> TransportWork:
        return self._start("send", [], tensors, peer=destination, tag=tag, result=list(tensors))

    def recv(self, tensors: Sequence[Any], source: int, tag: int = 0) -> TransportWork:
        return self._start("recv", tensors, peer=source, tag=tag)

    def recv_anysource(self, tensors: Sequence[Any], tag: int = 0) -> TransportWork:
        raise GroupError("transport", "the transport cannot receive from any rank", "name one")

    # torch >= 2.14
    all_gather_single = _allgather_base
    all_gather_single_coalesced = allgather_into_tensor_coalesced
    reduce_scatter_single = _reduce_scatter_base
    reduce_scatter_single_coalesced = reduce_scatter_tensor_coalesced
    all_to_all_single = alltoall_base
    gather_into_tensor = gather_single


# So hooks over a Go transport are ordered, too, and their failures are seen.
patches.patch_work(TransportWork)
issued.patch_group(TransportProcessGroup)
