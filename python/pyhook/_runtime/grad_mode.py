"""Autograd is off while a hook's code runs, as it is in PyTorch.

DDP calls hooks inside ``backward()``, where ``torch.is_grad_enabled()`` is False on
every torch (1.13 and 2.15 were asked), and so are the ``then`` callbacks that run on
the hook's thread: all of them with NCCL, whose futures are done on the host at once.
Callbacks that gloo's own threads run see those threads' mode, which is on; that stays
so here.

The Go side turns it off in C for each hook call (cbridge/grad_mode.c).
"""

from __future__ import annotations

from types import TracebackType
from typing import Optional

import torch

_enabled = torch.is_grad_enabled
_set = torch._C._set_grad_enabled


class GradOff:
    """``torch.no_grad()`` in half of its time: a chain enters it at each ``advance``.

    What the code inside leaves set does not stay.
    """

    __slots__ = ("_was",)

    def __enter__(self) -> None:
        self._was = _enabled()
        _set(False)

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        _set(self._was)
