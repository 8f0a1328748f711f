"""Rank 0's part of a meeting: it answers the other ranks and gives the verdict."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any, Optional

from .._errors import GroupError
from . import identity, interface
from .endpoint import LISTEN
from .store import peek, publish

if TYPE_CHECKING:
    from .meeting import Meeting

POLL_SECONDS = (0.01, 0.25)
"""Between two looks at the store: at first, and at most where rank 0 may be minutes away."""
HEAR_SECONDS = 0.5
"""How long, past the timeout, ranks may hear from rank 0 what it waited for in vain."""
PLAIN = "plain"
"""The verdict that some ranks are plain torch: go on by torch's own protocol."""
_SHOWN = 8
"""How many of the missing ranks are named."""
ANSWERS = "answers"
"""The key that is 1 while a rank 0 of pyhook serves the store and has not found plain ranks."""


class RankZero:
    """Rank 0's part."""

    def __init__(self, meeting: Meeting, store: Any, answers: bool = True) -> None:
        self.meeting, self.store, self.answers = meeting, store, answers
        self.name = uuid.uuid4().hex
        self.read = 0  # asks up to this number
        self.unread: set[int] = set()
        self.asked: dict[str, dict[str, Any]] = {}  # by word; dead or alive
        self.known: dict[int, dict[str, Any]] = {}  # by rank; alive
        self.living = 0  # processes: two may say that they are one rank
        self.me = meeting.me()
        if answers:
            store.add(ANSWERS, 1)

    def gather(self) -> Optional[str]:
        """Wait for all ranks. Return the attempt's name, or None where some are plain torch."""
        while True:
            self._answer()
            for word in list(self.asked):
                if self.store.add(f"knows/{self.name}/{word}", 0):
                    self._admit(self.asked.pop(word))
            missing = set(range(1, self.meeting.size)) - set(self.known)
            if not missing:
                others = self._others()
                publish(self.store, f"others/{self.name}", json.dumps(others))
                self.store.set(f"verdict/{self.name}", "null")
                return self.name
            plain = self.meeting.plain_ranks()
            if plain >= len(missing):
                self.store.set(f"verdict/{self.name}", json.dumps(PLAIN))
                if self.answers:
                    self.store.add(ANSWERS, -1)
                return None
            who = f"for ranks {_listed(missing)}" + (
                f", of which {plain} came by torch's own init_process_group (which names no rank),"
                if plain > 0
                else ""
            )
            self.meeting.waits = f"at {self.meeting.endpoint} {who}"
            if self.meeting.over():
                self._refuse(
                    "timeout",
                    f"rank 0 of {self.meeting.size} timed out waiting {who} at "
                    f"{self.meeting.endpoint}, for {self.meeting.seconds:g} s",
                    "were all ranks started, with one MASTER_ADDR, MASTER_PORT and "
                    "WORLD_SIZE, and is the port open between them?" + self._loopback_note(),
                )
            time.sleep(POLL_SECONDS[0])

    def _loopback_note(self) -> str:
        """Return what to add where ranks of other hosts cannot come."""
        host = self.meeting.endpoint.host
        if host != "localhost" and not host.startswith("127."):
            return ""
        return f" Rank 0 listens at {host} alone: with ranks on other hosts set {LISTEN}=0.0.0.0"

    def _answer(self) -> None:
        count = self.store.add("asks", 0)
        self.unread.update(range(self.read + 1, count + 1))
        self.read = count
        for number in sorted(self.unread):
            text = peek(self.store, f"ask/{number}")
            if text:
                self.unread.discard(number)
                ask = json.loads(text)
                self.store.set(f"answer/{ask['word']}", self.name)
                self.asked[ask["word"]] = ask

    def _admit(self, ask: dict[str, Any]) -> None:
        rank, size = ask["rank"], self.meeting.size
        self.living += 1
        other = self.known.setdefault(rank, ask)
        why = identity.unlike(self.me, ask)
        if why is not None:
            self._refuse(*why)
        if other is not ask:
            self._refuse(
                "rank",
                f"two processes are rank {rank} of {size}: {other['who']}, and {ask['who']}",
                "give each process a RANK of its own; are these two jobs at one MASTER_PORT?",
            )

    def _others(self) -> Optional[list[str]]:
        """Return addresses of ranks on other hosts: the way to one of them leads through the
        interface that gloo should listen on.

        None where all are on one host. Refuses ranks that others could not reach.
        """
        ranks = [self.me, *self.known.values()]
        here = self.me["machine"]
        elsewhere = [rank for rank in ranks if rank["machine"] != here]
        if not self.meeting.gloo or not elsewhere:
            return None
        found = dict.fromkeys(rank["address"] for rank in elsewhere if rank["address"])
        others = [address for address in found if not interface.is_loopback(address)][:_SHOWN]
        for rank in ranks:
            lost = interface.is_loopback(rank["address"])
            if lost and not rank["chosen"] and rank["machine"] == here:
                lost = not interface.choose("", 0, others)
            if lost:
                self._refuse(*unreachable(rank))
        return others

    def _refuse(self, *why: str) -> None:
        self.store.set(f"verdict/{self.name}", json.dumps(why))
        limit = time.monotonic() + HEAR_SECONDS
        while self.store.add(f"heard/{self.name}", 0) < self.living:
            if time.monotonic() > limit:
                break
            time.sleep(POLL_SECONDS[0])
        raise GroupError(*why)


def unreachable(rank: dict[str, Any]) -> tuple[str, str, str]:
    by = f", by {interface.VARIABLE}={rank['chosen']}" if rank["chosen"] else ""
    return (
        "address",
        f"rank {rank['rank']} ({rank['who']}) would have gloo listen at "
        f"{rank['address'] or 'loopback'}{by}, where ranks on other hosts cannot reach it",
        f"set {interface.VARIABLE} there to the interface between the hosts, such as eth0 "
        "(`ip route` shows them)",
    )


def _listed(ranks: set[int]) -> str:
    named = [str(rank) for rank in sorted(ranks)[:_SHOWN]]
    more = len(ranks) - len(named)
    return f"[{', '.join(named)}]" + (f" and {more} more" if more else "")
