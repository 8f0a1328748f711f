"""Meeting in a store that torchrun's agent keeps from one attempt to the next."""

from __future__ import annotations

import datetime
import os
import time
import uuid
from typing import Any

from . import _torch  # noqa: F401  (first: a clear error when torch is missing)

# isort: split
import torch.distributed as dist

_POLL_SECONDS = 0.01


def agent_serves() -> bool:
    """Whether env:// means a store in torchrun's agent (torch/distributed/rendezvous.py)."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and all(
        os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    )


def agent_store(rank: int, size: int, timeout: datetime.timedelta) -> Any:
    """The agent's store at MASTER_ADDR:MASTER_PORT, under a prefix of this attempt's own.

    env:// of torch 2.6 and later takes that store as it is, although the agent
    keeps it over restarts: restarted ranks may then find the addresses of the
    ranks before them (pytorch#167288; docs/troubleshooting.md). Every rank of
    the job must come through here, and all wait for all.
    """
    # Like torch's handler, but no waiting for workers: it counts those of all attempts.
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        size,
        False,
        timeout=timeout,
        wait_for_workers=False,
    )
    attempt = agree_on_attempt(dist.PrefixStore("pyhook", store), rank, size, timeout)
    return dist.PrefixStore(f"pyhook/{attempt}", store)


def agree_on_attempt(store: Any, rank: int, size: int, timeout: datetime.timedelta) -> str:
    """A name that the ranks now alive share, and none before them had.

    TORCHELASTIC_RESTART_COUNT is no such name: each node's agent counts for
    itself, and not when nodes come or go. So rank 0 makes the name, and each
    other rank asks for it with a word of its own, which no answer to an earlier
    rank can bear. Rank 0 answers all words it finds, also those of the dead,
    until every rank has said that it knows the name.

    Raises:
        TimeoutError: on rank 0, naming the ranks that did not come.
        RuntimeError: torch's, on the others.
    """
    word = uuid.uuid4().hex
    if rank != 0:
        store.set(f"asks/{rank}", word)
        name = str(store.get(f"answer/{rank}/{word}").decode())
        store.add(f"knows/{rank}/{name}", 1)
        return name
    answered: dict[int, str] = {}
    missing = set(range(1, size))
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        for other in sorted(missing):
            asked = _peek(store, f"asks/{other}")
            if asked and asked != answered.get(other):
                store.set(f"answer/{other}/{asked}", word)
                answered[other] = asked
            if store.add(f"knows/{other}/{word}", 0):
                missing.discard(other)
        if not missing:
            return word
        if time.monotonic() > deadline:
            raise TimeoutError(f"timed out waiting for ranks {sorted(missing)}")
        time.sleep(_POLL_SECONDS)


def _peek(store: Any, key: str) -> str:
    """The key's value, or "" without waiting for it (``check`` is not in torch 1.13)."""
    absent = "-"  # compare_set leaves a key alone that is not there and gives back this
    value = str(store.compare_set(key, absent, absent).decode())
    return "" if value == absent else value
