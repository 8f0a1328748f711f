"""Collectives of the CPU's tensors on a group whose backend has only a device's, as nccl's has.

package ddp's own collectives are of a few numbers in the CPU's memory: lists of parameters, who has
joined, which parameters were used. They go by the device's memory there. No gradient does.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any, Callable, Optional

import torch
import torch.distributed as dist

from . import streams


def staged(
    issue: Callable[..., Any],
    changed: Sequence[torch.Tensor],
    read: Sequence[torch.Tensor],
    group: Optional[Any],
) -> Any:
    """Issue a collective of tensors and return its future.

    Args:
        issue: is called with the tensors, those that the collective changes first; returns a work.
    """
    device = stage(group) if changed[0].device.type == "cpu" else None
    if device is None:
        return issue(*changed, *read).get_future()
    stream = _stream(device)  # not the trainer's: what it has enqueued need not be done
    with streams.current(stream):
        there = [tensor.to(device) for tensor in (*changed, *read)]
        work = issue(*there)
    done = torch.futures.Future()

    def finish() -> None:
        try:
            with streams.current(stream):
                copy_back(work, changed, there)
        except Exception as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=finish, name="pyhook collective", daemon=True).start()
    return done


def copy_back(work: Any, changed: Sequence[torch.Tensor], there: Sequence[torch.Tensor]) -> None:
    """Wait for a collective, and copy what it changed to the CPU."""
    work.wait()
    for tensor, result in zip(changed, there):
        tensor.copy_(result)


_stream = functools.lru_cache(maxsize=None)(streams.new_stream)


def stage(group: Optional[Any]) -> Optional[torch.device]:
    """Return the device by which a group reduces the CPU's tensors; None: as they are.

    It is the current one of its kind: where a rank has several, the trainer chooses before it joins
    (``torch.cuda.set_device``).
    """
    group = group if group is not None else dist.group.WORLD
    kinds = getattr(group, "_device_types", None)
    if kinds is None:  # torch 1
        kinds = [torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")]
    if not kinds or any(kind.type == "cpu" for kind in kinds):
        return None
    kind = kinds[0].type
    return torch.device(kind, getattr(torch, kind).current_device())
