"""Where the ranks of a job meet: a store, and a name that only those now alive share.

A store may outlive the ranks that met there: torchrun's agent keeps one over all
restarts (pytorch#167288: env:// of torch 2.6 and later takes that as it is, and finds
the addresses of the dead), a worker that is started anew may come before rank 0's
does, and a file stays. So rank 0 makes a name, and each other rank asks for it with a
word of its own, which no answer to an earlier rank can bear. Rank 0 answers all words
it finds, also those of the dead; the living say that they know the name. When all do,
or one cannot belong to the job, rank 0 says so to all of them. A rank whose torch does
not speak with the store's asks by ``_wire``, so that rank 0 hears of it all the same.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
import threading
import time
import uuid
from typing import Any, Optional

from . import _torch  # noqa: F401  (first: a clear error when torch is missing)

# isort: split
import torch.distributed as dist

from . import _ahead, _identity, _interface, _store
from ._errors import GroupError

_POLL_SECONDS = 0.01
_HEAR_SECONDS = 0.5
"""How long, past the timeout, ranks may hear from rank 0 what it waited for in vain."""
_SEVER_SECONDS = 0.75
"""How long past the timeout it takes until connections are shut down."""
_TELL_SECONDS = 5.0
"""How long a rank of another torch waits until rank 0 has told all ranks of it."""
_NOTICE_SECONDS = (10.0, 60.0)
"""After how long a rank says what it waits for: first, and from then on."""
_SHOWN = 8
"""So many of the ranks that are missing are named."""

MEETING_SECONDS = 300.0
"""The timeout of a meeting where none is given."""


class Meeting:
    """One rank's attempt to find the others, until a deadline or ``stop``.

    As a context manager it watches over what is done inside: soon after the deadline the
    connections to the store that were made since are shut down, again and again. torch
    waits for an answer of a store without a limit of time, and would do so for ever
    where the process that serves it is frozen.
    """

    def __init__(
        self, method: str, rank: int, size: int, seconds: float, gloo: bool = True
    ) -> None:
        """``gloo``: whether the group's backend is gloo, so that others must reach it."""
        self.rank, self.size, self.seconds, self.gloo = rank, size, seconds, gloo
        self.place = _store.Place.of(method)
        self.stopped = False
        self.waits = ""
        """For what, in words; empty where another rank says it."""
        self._begin = time.monotonic()
        self._deadline = self._begin + seconds
        if rank != 0:
            self._deadline += _HEAR_SECONDS
        self._sever_at = time.monotonic() + seconds + _SEVER_SECONDS
        self._done = False
        self._wake = threading.Event()
        self._before = _store.connections(self.place.port)

    def __enter__(self) -> Meeting:
        threading.Thread(target=self._watch, name="pyhook-meeting", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        self._wake.set()

    def stop(self) -> None:
        """End the attempt. For any thread."""
        self.stopped = True
        self._wake.set()

    def over(self) -> bool:
        """Whether it was stopped or is too late."""
        return self.stopped or time.monotonic() >= self._deadline

    def _watch(self) -> None:
        notice = self._begin + _NOTICE_SECONDS[0]
        while not self._wake.wait(min(notice, self._sever_at) - time.monotonic()):
            if time.monotonic() >= self._sever_at:
                break
            self._notice()
            notice += _NOTICE_SECONDS[1]
        while not self._done:
            _store.sever(self.place.port, self._before)
            time.sleep(0.1)

    def _notice(self) -> None:
        if not self.waits or sys.stderr is None:
            return
        waited = time.monotonic() - self._begin
        with contextlib.suppress(Exception):  # a stream that is closed
            sys.stderr.write(
                f"pyhook: rank {self.rank} of {self.size} has waited {waited:.0f} s "
                f"{self.waits}; it gives up after {self.seconds:g} s\n"
            )
            sys.stderr.flush()

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0)

    def store(self) -> Any:
        """A store for ``init_process_group`` that no other attempt uses.

        Raises:
            GroupError: ``timeout`` (naming the ranks that did not come, where rank 0
                still could), ``rank``, ``world_size``, ``address``, ``port_in_use``,
                ``not_a_store``, ``torch_version``, ``protocol``.
        """
        self.waits = f"for rank 0 at {self.place}"
        while True:
            last: Exception
            try:
                store = self._open()
                name = self._agree(dist.PrefixStore("pyhook", store))
                self.waits = "for the backend to connect the ranks, which have all met"
                return dist.PrefixStore(f"pyhook/{name}", store)
            except _store.OtherTorch as error:
                raise self._other_torch(error) from None
            except _store.NotYet as error:
                last = error
            except (RuntimeError, OSError) as error:
                # Rank 0's process ended: that of the attempt before this one, perhaps.
                if isinstance(error, GroupError) or (self._serves() and not self.over()):
                    raise
                last = error
            if self.over():
                raise self._late(last) from last
            if self.rank != 0:
                self.waits = f"for rank 0 at {self.place}: {_first_line(last)}"
            time.sleep(5 * _POLL_SECONDS)

    def _late(self, last: Exception) -> GroupError:
        said = _first_line(last)
        if self._serves() and isinstance(last, _store.NotYet):
            return GroupError(
                "address",
                f"rank 0 of {self.size} cannot serve the store at {self.place}: {said}",
                "MASTER_ADDR must be an address of the host that rank 0 runs on, or its name",
            )
        return GroupError(
            "timeout",
            f"rank {self.rank} of {self.size} timed out after {self.seconds:g} s without an "
            f"answer of rank 0 at {self.place}: {said}",
            "was rank 0 started, does it run, and is its port open to this host? Or do all "
            "ranks of that job have each other already, and this is one of another job?",
        )

    def _serves(self) -> bool:
        return self.rank == 0 and not self.place.agent and not self.place.path

    def _open(self) -> Any:
        left = datetime.timedelta(seconds=max(self._left(), 0.1))
        if self.place.path:
            store = dist.FileStore(self.place.path, -1)
            store.set_timeout(left)
            return store
        if self._serves():
            return _store.serve(self.place, left)
        return _store.connect(self.place, left, self._left())

    def me(self) -> dict[str, Any]:
        """What this rank says of itself."""
        address = ""
        if self.gloo and not _store.one_host():
            address = _interface.announced(self.place.host, self.place.port)
        return _identity.of_this_process(self.rank, self.size, address)

    def _agree(self, store: Any) -> str:
        """The attempt's name."""
        name = _Host(self, store).gather() if self.rank == 0 else self._ask(store)
        said = _store.peek(store, f"others/{name}")  # published before the verdict
        if said is None:
            raise GroupError(
                "protocol",
                f"rank 0 at {self.place} has an older pyhook",
                "build all ranks' programs with one version of pyhook",
            )
        others = json.loads(said)
        if others is not None and not _interface.settle(self.place.host, self.place.port, others):
            raise GroupError(*_unreachable(self.me()))
        return name

    def _ask(self, store: Any) -> str:
        word = uuid.uuid4().hex
        number = store.add("asks", 1)
        _store.publish(store, f"ask/{number}", json.dumps({"word": word, **self.me()}))
        self.waits = (
            f"for an answer of rank 0 at {self.place}, where a store is, perhaps another job's"
        )
        name = str(store.get(f"answer/{word}").decode())
        store.add(f"knows/{name}/{word}", 1)
        # Rank 0 names who is missing. One rank of each other host says that it waits.
        first = os.environ.get("LOCAL_RANK", "0") == "0"
        self.waits = f"with rank 0 at {self.place} for other ranks" if first else ""
        verdict = json.loads(store.get(f"verdict/{name}").decode())
        store.add(f"heard/{name}", 1)
        if verdict:
            raise GroupError(*verdict)
        return name

    def _other_torch(self, found: _store.OtherTorch) -> GroupError:
        """Ask rank 0 all the same, so that it tells all ranks; else say it here."""
        me = self.me()
        store = found.store
        try:
            if self.rank != 0:
                store.limit(max(min(_TELL_SECONDS, self._left()), 0.1))
                word = uuid.uuid4().hex
                number = store.add("pyhook/asks", 1)
                ask = json.dumps({"word": word, **me})
                _store.publish(store, f"pyhook/ask/{number}", ask)
                name = store.get(f"pyhook/answer/{word}")
                store.add(f"pyhook/knows/{name}/{word}", 1)
                verdict = json.loads(store.get(f"pyhook/verdict/{name}"))
                store.add(f"pyhook/heard/{name}", 1)
                if verdict:
                    return GroupError(*verdict)
        except (OSError, ValueError):
            pass  # rank 0 has another torch than the store, too, or is not there yet
        finally:
            store.close()
        return _ahead.no_common_words(self.place, me, store)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error) else type(error).__name__


class _Host:
    """Rank 0's part."""

    def __init__(self, meeting: Meeting, store: Any) -> None:
        self.meeting, self.store = meeting, store
        self.name = uuid.uuid4().hex
        self.read = 0  # asks up to this number
        self.unread: set[int] = set()
        self.asked: dict[str, dict[str, Any]] = {}  # by word; dead or alive
        self.known: dict[int, dict[str, Any]] = {}  # by rank; alive
        self.living = 0  # processes: two may say that they are one rank
        self.me = meeting.me()

    def gather(self) -> str:
        """Wait for all ranks. Returns the attempt's name."""
        waiting_for = 0
        while True:
            self._answer()
            for word in list(self.asked):
                if self.store.add(f"knows/{self.name}/{word}", 0):
                    self._admit(self.asked.pop(word))
            missing = set(range(1, self.meeting.size)) - set(self.known)
            if not missing:
                others = self._others()
                _store.publish(self.store, f"others/{self.name}", json.dumps(others))
                self.store.set(f"verdict/{self.name}", "null")
                return self.name
            if len(missing) != waiting_for:
                waiting_for = len(missing)
                self.meeting.waits = f"at {self.meeting.place} for ranks {_listed(missing)}"
            if self.meeting.over():
                self._refuse(
                    "timeout",
                    f"rank 0 of {self.meeting.size} timed out waiting for ranks "
                    f"{_listed(missing)} at {self.meeting.place}, for {self.meeting.seconds:g} s",
                    "were all ranks started, with one MASTER_ADDR, MASTER_PORT and "
                    "WORLD_SIZE, and is the port open between them?" + self._aloof(),
                )
            time.sleep(_POLL_SECONDS)

    def _aloof(self) -> str:
        """What to add where ranks of other hosts cannot come."""
        host = self.meeting.place.host
        if host != "localhost" and not host.startswith("127."):
            return ""
        return (
            f" Rank 0 listens at {host} alone: with ranks on other hosts set "
            f"{_store.LISTEN}=0.0.0.0"
        )

    def _answer(self) -> None:
        count = self.store.add("asks", 0)
        self.unread.update(range(self.read + 1, count + 1))
        self.read = count
        for number in sorted(self.unread):
            text = _store.peek(self.store, f"ask/{number}")
            if text:
                self.unread.discard(number)
                ask = json.loads(text)
                self.store.set(f"answer/{ask['word']}", self.name)
                self.asked[ask["word"]] = ask

    def _admit(self, ask: dict[str, Any]) -> None:
        rank, size = ask["rank"], self.meeting.size
        self.living += 1
        other = self.known.setdefault(rank, ask)
        why = _identity.unlike(self.me, ask)
        if why is not None:
            self._refuse(*why)
        if other is not ask:
            self._refuse(
                "rank",
                f"two processes are rank {rank} of {size}: {other['who']}, and {ask['who']}",
                "give each process a RANK of its own; are these two jobs at one MASTER_PORT?",
            )

    def _others(self) -> Optional[list[str]]:
        """Addresses of ranks on other hosts, for those here to choose gloo's by the way there.

        None where all are on one host. Refuses ranks that others could not reach.
        """
        ranks = [self.me, *self.known.values()]
        here = self.me["machine"]
        elsewhere = [rank for rank in ranks if rank["machine"] != here]
        if not self.meeting.gloo or not elsewhere:
            return None
        found = dict.fromkeys(rank["address"] for rank in elsewhere if rank["address"])
        others = [address for address in found if not _interface.is_loopback(address)][:_SHOWN]
        for rank in ranks:
            lost = _interface.is_loopback(rank["address"])
            if lost and not rank["chosen"] and rank["machine"] == here:
                lost = not _interface.settle("", 0, others)
            if lost:
                self._refuse(*_unreachable(rank))
        return others

    def _refuse(self, *why: str) -> None:
        self.store.set(f"verdict/{self.name}", json.dumps(why))
        limit = time.monotonic() + _HEAR_SECONDS
        while self.store.add(f"heard/{self.name}", 0) < self.living:
            if time.monotonic() > limit:
                break
            time.sleep(_POLL_SECONDS)
        raise GroupError(*why)


def _unreachable(rank: dict[str, Any]) -> tuple[str, str, str]:
    by = f", by {_interface.VARIABLE}={rank['chosen']}" if rank["chosen"] else ""
    return (
        "address",
        f"rank {rank['rank']} ({rank['who']}) would have gloo listen at "
        f"{rank['address'] or 'loopback'}{by}, where ranks on other hosts cannot reach it",
        f"set {_interface.VARIABLE} there to the interface between the hosts, such as eth0 "
        "(`ip route` shows them)",
    )


def _listed(ranks: set[int]) -> str:
    named = [str(rank) for rank in sorted(ranks)[:_SHOWN]]
    more = len(ranks) - len(named)
    return f"[{', '.join(named)}]" + (f" and {more} more" if more else "")
