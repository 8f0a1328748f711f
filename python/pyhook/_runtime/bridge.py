"""What the Go side calls, in one namespace. Not for anybody else.

The Go side looks these names up once and keeps them: renaming one is a change
of the interface.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from typing import Any, Optional

import torch
import torch.distributed as dist

from .. import __version__
from .._errors import GroupError, HookContractError, HookError, HookLoadError
from .._loading.load import build_state, check_hook, hook_name, load_hook
from .._meeting.dtype_probe import probe_allreduce_dtypes
from .._meeting.join import describe_group, destroy, init_process_group, stop_joining
from .._meeting.torch_build import backends, libuv_works, torch_version
from ..capture import capture, hook_and_state
from .bucket import Bucket, BucketMethods, fresh
from .bucket_layout import BucketLayout, new_layout
from .chain import Chain
from .complex_gradients import check_complex, complex_refusal
from .contract import callback_origin, future_value, require_future
from .cuda_stream import on_stream
from .issued import Watched
from .nccl_futures import NCCLForms, uses_forms
from .order import hook_order
from .parameters import name_parameters
from .patches import install
from .result import parse_value
from .sparse import run_sparse_hook, sparse_layout, sparse_parts
from .trace import Observed

__all__ = [
    "Bucket",
    "BucketLayout",
    "BucketMethods",
    "Chain",
    "GroupError",
    "HookContractError",
    "HookError",
    "HookLoadError",
    "NCCLForms",
    "Observed",
    "Watched",
    "build_state",
    "callback_origin",
    "capture",
    "check_complex",
    "check_hook",
    "complex_refusal",
    "describe_group",
    "destroy",
    "environment",
    "fresh",
    "future_value",
    "hook_and_state",
    "hook_name",
    "hook_order",
    "init_process_group",
    "load_hook",
    "name_parameters",
    "new_layout",
    "on_stream",
    "parse_value",
    "probe_allreduce_dtypes",
    "require_future",
    "run_sparse_hook",
    "sparse_layout",
    "sparse_parts",
    "stop_joining",
    "uses_forms",
]

install()


def environment() -> dict[str, Any]:
    """What ``pyhook doctor`` shows of the Python side. Every value was tried, not guessed.

    Returns:
        ``pyhook``, ``torch``, ``python``, ``executable``, ``prefix``: text;
        ``numpy``: text, None if it is not there (PowerSGD needs it);
        ``cuda_available``: bool; ``devices``: names; ``distributed_available``:
        bool; ``backends``: name -> bool; ``libuv_works``, ``torchrun_broken``,
        ``torchrun_lacks_libuv``: bool.
    """
    cuda = bool(torch.cuda.is_available())
    count = int(torch.cuda.device_count()) if cuda else 0
    return {
        "pyhook": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "executable": sys.executable or "",
        "prefix": sys.prefix,
        "numpy": _numpy_version(),
        "cuda_available": cuda,
        "devices": [str(torch.cuda.get_device_name(i)) for i in range(count)],
        "distributed_available": bool(dist.is_available()),
        "backends": backends(),
        "libuv_works": libuv_works(),
        "torchrun_broken": _torchrun_broken(),
        "torchrun_lacks_libuv": _torchrun_lacks_libuv(),
    }


def _numpy_version() -> Optional[str]:
    with contextlib.suppress(Exception):
        import numpy

        return str(numpy.__version__)
    return None


def _torchrun_lacks_libuv() -> bool:
    """Whether torchrun cannot start any rank, as with Debian 13's torch 2.6.

    Its stores (torch/distributed/elastic/rendezvous: c10d and static) ask for libuv
    without looking at USE_LIBUV, and a build without libuv has none to give.
    """
    if torch_version() < (2, 4) or libuv_works():
        return False
    try:
        from torch.distributed.elastic.rendezvous import RendezvousParameters
        from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend as c10d
    except ImportError:
        return False  # it moved: not the torch that has the defect
    set_before = os.environ.get("USE_LIBUV")
    os.environ["USE_LIBUV"] = "0"
    try:
        c10d._create_tcp_store(
            RendezvousParameters("c10d", "127.0.0.1:0", "probe", 1, 1, is_host="true")
        )
    except Exception:
        return True
    finally:
        if set_before is None:
            del os.environ["USE_LIBUV"]
        else:
            os.environ["USE_LIBUV"] = set_before
    return False


def _torchrun_broken() -> bool:
    """Whether ``torchrun`` fails at once, as torch 1.13 does on Python 3.11 (Debian 12).

    torch/distributed/elastic/multiprocessing/api.py: ``Std.from_str`` walks the
    members of an IntFlag, and since Python 3.11 that leaves out 0 and
    combinations, so that the default ``--redirects 0`` gives None and
    ``to_map(None)`` an AttributeError. ``-r 1 -t 1`` goes round it.
    """
    try:
        from torch.distributed.elastic.multiprocessing.api import Std, to_map
    except ImportError:
        return False  # it moved: not the torch that has the defect
    try:
        to_map(Std.from_str("0"), 1)
    except Exception:
        return True
    return False
