"""What ``pyhook doctor`` shows of the Python side."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from typing import Any, Optional

import torch
import torch.distributed as dist

from .. import __version__
from .._meeting.torch_build import backends, libuv_works, torch_version


def environment() -> dict[str, Any]:
    """Return what was found by trying it. ``numpy``, which PowerSGD needs, may be None."""
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
    """Return whether torchrun cannot start any rank, as with Debian 13's torch 2.6.

    Its stores (torch/distributed/elastic/rendezvous: c10d and static) ask for libuv whatever
    USE_LIBUV says, also in a build without libuv.
    """
    if torch_version() < (2, 4) or libuv_works():
        return False
    try:
        from torch.distributed.elastic.rendezvous import RendezvousParameters
        from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend as c10d
    except ImportError:
        return False  # moved: not a torch with the defect
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
    """Return whether ``torchrun`` fails at once, as torch 1.13 does on Python 3.11 (Debian 12).

    torch/distributed/elastic/multiprocessing/api.py: ``Std.from_str`` walks the members of an
    IntFlag, which since Python 3.11 leaves out 0 and combinations: the default ``--redirects 0``
    becomes None, and ``to_map(None)`` raises an AttributeError. ``-r 1 -t 1`` avoids it.
    """
    try:
        from torch.distributed.elastic.multiprocessing.api import Std, to_map
    except ImportError:
        return False  # moved: not a torch with the defect
    try:
        to_map(Std.from_str("0"), 1)
    except Exception:
        return True
    return False
