"""torch, imported with the environment that the oracle wants it to find.

Every module here takes torch from this one, so that the variables are set before torch reads
them, whichever module a program imports first.
"""

from __future__ import annotations

import os

# Floating-point sums depend on how work is split between threads, so one thread is part of the
# contract with the Go side. It also keeps the parent free of threads, which makes fork() safe.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# Gloo otherwise resolves the host's name, which fails or is slow in containers and chroots.
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import torch  # noqa: E402  (the environment above must be set first)
import torch.distributed as dist  # noqa: E402

__all__ = ["dist", "torch"]
