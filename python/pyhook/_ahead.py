"""What a rank can know of a meeting before it begins."""

from __future__ import annotations

import os
from typing import Any

from . import _identity, _interface, _store, _wire
from ._errors import GroupError


def look_ahead(method: str, rank: int, size: int) -> None:
    """What can be known of a meeting that is left to torch, before it begins.

    Sets gloo's interface where the way to the store tells it, as ``Meeting`` does.

    Raises:
        GroupError: ``torch_version``: torchrun's agent has another torch.
    """
    try:
        place = _store.Place.of(method.partition("?")[0])
    except GroupError:
        return  # torch has words of its own for it
    if not place.host:
        return
    if place.agent and not _wire.speaks(place.host, place.port, 1):
        other = _wire.other_dialect(place.host, place.port, 1)
        if other is not None:
            other.close()
            if rank < 0 and os.environ.get("RANK", "").isdecimal():
                rank = int(os.environ["RANK"])
            me = _identity.of_this_process(rank, size, "")
            raise no_common_words(place, me, other)
    if not _store.one_host():
        _interface.settle(place.host, place.port, [])


def no_common_words(place: _store.Place, me: dict[str, Any], store: _wire.Store) -> GroupError:
    """The error of a rank, ``me``, whose torch cannot speak with the store's."""
    serves = "torchrun's agent" if place.agent else "rank 0"
    return GroupError(
        "torch_version",
        f"the store at {place}, which {serves} serves, is of a torch "
        f"{_wire.ABOUT[store.dialect]}, and rank {me['rank']} ({me['who']}) has torch "
        f"{me['torch']} in {me['python']}: they cannot speak with each other",
        "start the ranks by the torchrun of their own environment, or set PYHOOK_PYTHON to "
        "the Python that torchrun has"
        if place.agent
        else "have one torch on all hosts; PYHOOK_PYTHON chooses the interpreter",
    )
