"""What a rank says of itself when the ranks meet, and which ranks can belong to one job.

Two releases of torch may not understand each other's gloo, or run a collective by different
algorithms: the ranks hang, or their sums are wrong. So each rank names its torch before any of them
waits for another.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any, Optional

from . import interface

# isort: split
import torch

PROTOCOL = 2
"""Raised when ranks of two versions of pyhook cannot meet any more."""


def of_this_process(rank: int, size: int, address: str) -> dict[str, Any]:
    """Describe this process. Others find its gloo at ``address`` (``interface.announced``)."""
    return {
        "rank": rank,
        "size": size,
        "who": f"process {os.getpid()} on {socket.gethostname()}",
        "protocol": PROTOCOL,
        "torch": str(torch.__version__),
        "python": sys.executable or "",
        "machine": interface.machine(),
        "address": address,
        "chosen": os.environ.get(interface.VARIABLE, ""),
    }


def release(version: str) -> str:
    """Return the major and minor number: "2.15" of "2.15.1+cpu"."""
    return ".".join(version.partition("+")[0].split(".")[:2])


def unlike(mine: dict[str, Any], other: dict[str, Any]) -> Optional[tuple[str, str, str]]:
    """Return why two ranks cannot be of one job, as GroupError's arguments; or None."""

    def both(what: str) -> str:
        return " and ".join(
            f"rank {each['rank']} ({each['who']}) {what.format(**each)}" for each in (other, mine)
        )

    if other.get("protocol", 0) != mine["protocol"]:
        return (
            "protocol",
            both("meets by version {protocol} of pyhook's protocol")
            if "protocol" in other
            else f"rank {other['rank']} ({other['who']}) has an older pyhook",
            "build all ranks' programs with one version of pyhook",
        )
    if other["size"] != mine["size"]:
        return (
            "world_size",
            f"rank {other['rank']} ({other['who']}) has a world of {other['size']}, "
            f"and rank {mine['rank']} ({mine['who']}) one of {mine['size']}",
            "give all ranks one WORLD_SIZE; are these two jobs at one MASTER_PORT?",
        )
    if release(other["torch"]) != release(mine["torch"]):
        return (
            "torch_version",
            "the ranks' torch differs: " + both("has {torch} in {python}"),
            "have one torch on all hosts; PYHOOK_PYTHON chooses the interpreter",
        )
    return None
