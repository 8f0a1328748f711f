"""How the ranks agree to make their process groups anew, on the store of the former ones.

Each rank asks, and gives up when its caller does; it may ask again, and some ranks may be minutes
late. Rank 0 answers when all have asked: the answer's number names the keys of the new groups. A
rank whose request is in it confirms, and goes on when all have confirmed. If one of the requests
was of a rank that has left, that rank's next one makes rank 0 answer anew.

Only ``add`` is used to look at a key: it never waits, and a store of torch 1.13 that waited in vain
is of no use after it.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import Any

import torch.distributed as dist

from .._errors import GroupError

_POLL_SECONDS = (0.001, 0.05)
_WITHDRAWN = -(1 << 32)
"""What a rank that gives up adds to a count of ranks, which then never comes to be complete."""


class Cancelled(Exception):
    """The caller gave up. The text says what was waited for."""


class Meeting:
    """One rank's part, over all renewals of its groups."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        """``store``: that of the groups, which all ranks reach."""
        self._store = dist.PrefixStore("pyhook/renewal", store)
        self._rank, self._size = rank, size
        self._asked = 0
        self._met = [0] * size  # the request of each rank that the last meeting was of
        self._number = 0

    def meet(self, said: dict[str, Any], cancelled: threading.Event) -> tuple[int, list[Any]]:
        """Wait until all ranks ask.

        Returns:
            A number that no other meeting has, and what each rank said.

        Raises:
            Cancelled: ``cancelled`` was set. It names the ranks that have not come.
        """
        self._asked += 1
        self._store.set(f"ask/{self._rank}/{self._asked}", json.dumps(said))
        self._store.add(f"asks/{self._rank}", 1)
        number, answer = 0, {"asks": self._met, "said": []}
        poll = _Poll(cancelled)
        while True:
            asks = self._asks() if self._rank == 0 else answer["asks"]
            if number and self._store.add(f"here/{number}", 0) == self._size:
                self._met, self._number = answer["asks"], number
                return number, answer["said"]
            if asks != answer["asks"] and all(n > met for n, met in zip(asks, self._met)):
                self._answer(asks)
            latest = self._store.add("answers", 0)
            if latest > number:
                found = json.loads(self._store.get(f"answer/{latest}"))
                if found["asks"][self._rank] == self._asked:
                    number, answer = latest, found
                    self._store.add(f"here/{number}", 1)
            if poll.wait():
                continue
            waits = self._waits(number)
            if number and self._withdraw(f"here/{number}"):
                self._met, self._number = answer["asks"], number
                self.fail("gave up")
            raise Cancelled(waits)

    def _asks(self) -> list[int]:
        return [self._store.add(f"asks/{rank}", 0) for rank in range(self._size)]

    def _answer(self, asks: list[int]) -> None:
        said = [json.loads(self._store.get(f"ask/{rank}/{n}")) for rank, n in enumerate(asks)]
        number = self._store.add("answers", 0) + 1  # rank 0 alone adds
        self._store.set(f"answer/{number}", json.dumps({"asks": asks, "said": said}))
        self._store.add("answers", 1)

    def _waits(self, number: int) -> str:
        missing = [r for r, (n, met) in enumerate(zip(self._asks(), self._met)) if n <= met]
        if missing:
            return f"waiting for {ranks_text(missing)} of {self._size} to call it"
        return "waiting for rank 0's answer" if not number else "waiting for all ranks to confirm"

    def fail(self, why: str) -> None:
        """Tell the others that this rank cannot make the groups of the last meeting."""
        with contextlib.suppress(Exception):  # then they wait for it in vain
            n = self._store.add(f"failing/{self._number}", 1)
            self._store.set(f"why/{self._number}/{n}", f"rank {self._rank} {why}")
            self._store.add(f"failed/{self._number}", 1)

    def commit(self, cancelled: threading.Event) -> None:
        """Wait until all ranks have made the groups.

        Raises:
            GroupError: ``peer``: a rank could not, or gave up.
            Cancelled: ``cancelled`` was set, and no rank returns.
        """
        self._store.add(f"done/{self._number}", 1)
        poll = _Poll(cancelled)
        while True:
            done = self._store.add(f"done/{self._number}", 0)
            if done == self._size:
                return
            if self._store.add(f"failed/{self._number}", 0):
                raise GroupError("peer", self._store.get(f"why/{self._number}/1").decode())
            if done < 0:
                raise GroupError("peer", "another rank gave up while the groups were made anew")
            if not poll.wait() and not self._withdraw(f"done/{self._number}"):
                raise Cancelled("waiting for all ranks to make the groups")

    def _withdraw(self, key: str) -> bool:
        """Keep a count from coming to be complete. Return whether it was complete before."""
        return bool(self._store.add(key, _WITHDRAWN) - _WITHDRAWN == self._size)


class _Poll:
    """Waits a little longer each time."""

    def __init__(self, cancelled: threading.Event) -> None:
        self._cancelled = cancelled
        self._begin = time.monotonic()

    def wait(self) -> bool:
        """Return False if it was cancelled."""
        least, most = _POLL_SECONDS
        waited = time.monotonic() - self._begin
        return not self._cancelled.wait(min(max(waited / 10, least), most))


def ranks_text(ranks: list[int]) -> str:
    """ "rank 1", "ranks 1 and 3"."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
