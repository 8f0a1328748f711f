"""The hook's state, and the process groups that it holds."""

from __future__ import annotations

from typing import Any

from oracle_case import OracleError, resolve
from oracle_torch import dist, torch


class _Work:
    """The two methods that hooks use of a Work object."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def get_future(self) -> Any:
        return self._future

    def wait(self, _timeout: Any = None) -> bool:
        self._future.wait()
        return True


class NcclShapedGroup:
    """Gloo's group, but all_gather's future has NCCL's shape: one stacked tensor.

    The quantization hooks index the future as NCCL makes it and cannot run on gloo. With this
    group they run unmodified under PyTorch's Reducer, so they still have an oracle.
    """

    def __init__(self, group: Any) -> None:
        self._group = group

    def rank(self) -> int:
        return self._group.rank()

    def size(self) -> int:
        return self._group.size()

    def allreduce(self, tensors: list[torch.Tensor], opts: Any = None) -> Any:
        return self._group.allreduce(tensors, opts or dist.AllreduceOptions())

    def allgather(
        self,
        outputs: list[list[torch.Tensor]],
        inputs: list[torch.Tensor],
        opts: Any = None,  # torch 2.14 passes it, 1.13 does not
    ) -> _Work:
        """Gather, then stack the outputs as NCCL's future does."""
        future = self._group.allgather(outputs, inputs).get_future()

        def stack(done: Any) -> list[torch.Tensor]:
            done.value()  # raises the transport's error, if there was one
            return [torch.stack(outputs[0])]

        return _Work(future.then(stack))


def subgroup(spec: Any) -> Any:
    """``"new_group"`` is a second group of all ranks; ``{"new_group": [[0,1],[2,3]]}`` splits."""
    everyone = [list(range(dist.get_world_size()))]
    lists = everyone if spec == "new_group" else spec["new_group"]
    mine = None
    for ranks in lists:  # every rank must take part in making every group
        made = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            mine = made
    return mine


def build_state(spec: Any) -> Any:
    """The hook's state: none, a group, or an object of a state class."""
    world = dist.group.WORLD
    if spec is None:
        return None
    if spec == "group":
        return world
    if spec == "group:nccl_futures":
        return NcclShapedGroup(world)
    if not isinstance(spec, dict):
        raise OracleError(f"unknown state {spec!r}")
    kwargs = dict(spec.get("kwargs", {}))
    if kwargs.get("subgroup") is not None:
        kwargs["subgroup"] = subgroup(kwargs["subgroup"])
    kwargs.setdefault("process_group", world)
    return resolve(spec["class"])(**kwargs)
