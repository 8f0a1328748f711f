"""A device's memory in two processes, by the means that torch has for the device.

They are those of ``torch.multiprocessing``, which registers for CUDA's tensors a pickle that has an
IPC handle in place of the elements (torch/multiprocessing/reductions.py); a private backend
registers its own. A trainer shares a bucket so with its worker, which it has started itself: the
worker loads what came from there, and the trainer loads nothing.
"""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler

import torch
import torch.multiprocessing  # registers what torch has


def share(tensor: torch.Tensor) -> bytes:
    """Return what ``shared`` makes a tensor over the same memory of, once, in a child process.

    Raises:
        RuntimeError: torch has no means for this device, or for memory that is not torch's.
    """
    try:
        return bytes(ForkingPickler.dumps(tensor))
    except Exception as error:
        raise RuntimeError(
            f"torch cannot share this memory of {tensor.device} with another process ({error})"
        ) from error


def shared(handle: bytes) -> torch.Tensor:
    """Return the tensor. Only of what this process's parent made: loading it runs code."""
    loaded: torch.Tensor = ForkingPickler.loads(handle)
    return loaded
