"""Where the ranks of a job meet: a store, and a name that only those now alive share.

A store may outlive the ranks that met there: torchrun's agent keeps one over all
restarts (pytorch#167288: env:// of torch 2.6 and later takes that as it is, and finds
the addresses of the dead), a worker that is started anew may come before rank 0's
does, and a file stays. So rank 0 makes a name, and each other rank asks for it with a
word of its own, which no answer to an earlier rank can bear. Rank 0 answers all words
it finds, also those of the dead; the living say that they know the name. When all do,
or one cannot belong to the job, rank 0 says so to all of them.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import threading
import time
import uuid
from typing import Any, Optional

from . import _torch  # noqa: F401  (first: a clear error when torch is missing)

# isort: split
import torch.distributed as dist

from . import _store
from ._errors import GroupError

_POLL_SECONDS = 0.01
_HEAR_SECONDS = 0.5
"""How long, past the timeout, ranks may hear from rank 0 what it waited for in vain."""
_SEVER_SECONDS = 0.75
"""How long past the timeout it takes until connections are shut down."""


class Meeting:
    """One rank's attempt to find the others, until a deadline or ``stop``.

    As a context manager it watches over what is done inside: soon after the deadline the
    connections to the store that were made since are shut down, again and again. torch
    waits for an answer of a store without a limit of time, and would do so for ever
    where the process that serves it is frozen.
    """

    def __init__(self, method: str, rank: int, size: int, seconds: float) -> None:
        self.rank, self.size, self.seconds = rank, size, seconds
        self.place = _store.Place.of(method)
        self.stopped = False
        self._deadline = time.monotonic() + seconds
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
        self._wake.wait(self._sever_at - time.monotonic())
        while not self._done:
            _store.sever(self.place.port, self._before)
            time.sleep(0.1)

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0)

    def store(self) -> Any:
        """A store for ``init_process_group`` that no other attempt uses.

        Raises:
            GroupError: ``timeout`` (naming the ranks that did not come, where rank 0
                still could), ``rank``, ``world_size``, ``address``, ``port_in_use``,
                ``not_a_store``.
        """
        while True:
            last: Exception
            try:
                store = self._open()
                name = self._agree(dist.PrefixStore("pyhook", store))
                return dist.PrefixStore(f"pyhook/{name}", store)
            except _store.NotYet as error:
                last = error
            except (RuntimeError, OSError) as error:
                # Rank 0's process ended: that of the attempt before this one, perhaps.
                if isinstance(error, GroupError) or (self._serves() and not self.over()):
                    raise
                last = error
            if self.over():
                raise self._late(last) from last
            time.sleep(5 * _POLL_SECONDS)

    def _late(self, last: Exception) -> GroupError:
        said = str(last).strip().splitlines()[0] if str(last) else type(last).__name__
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

    def _agree(self, store: Any) -> str:
        """The attempt's name."""
        if self.rank == 0:
            return _Host(self, store).gather()
        word = uuid.uuid4().hex
        me = {"word": word, "rank": self.rank, "size": self.size, "who": _who()}
        number = store.add("asks", 1)
        store.set(f"ask/{number}", json.dumps(me))
        name = str(store.get(f"answer/{word}").decode())
        store.add(f"knows/{name}/{word}", 1)
        verdict = json.loads(store.get(f"verdict/{name}").decode())
        store.add(f"heard/{name}", 1)
        if verdict:
            raise GroupError(*verdict)
        return name


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

    def gather(self) -> str:
        """Wait for all ranks. Returns the attempt's name."""
        while True:
            self._answer()
            for word in list(self.asked):
                if self.store.add(f"knows/{self.name}/{word}", 0):
                    self._admit(self.asked.pop(word))
            missing = set(range(1, self.meeting.size)) - set(self.known)
            if not missing:
                self.store.set(f"verdict/{self.name}", "null")
                return self.name
            if self.meeting.over():
                self._refuse(
                    "timeout",
                    f"rank 0 of {self.meeting.size} timed out waiting for ranks "
                    f"{sorted(missing)} at {self.meeting.place}, for {self.meeting.seconds:g} s",
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
            text = _peek(self.store, f"ask/{number}")
            if text:
                self.unread.discard(number)
                ask = json.loads(text)
                self.store.set(f"answer/{ask['word']}", self.name)
                self.asked[ask["word"]] = ask

    def _admit(self, ask: dict[str, Any]) -> None:
        rank, size = ask["rank"], self.meeting.size
        self.living += 1
        other = self.known.setdefault(rank, ask)
        if ask["size"] != size:
            self._refuse(
                "world_size",
                f"rank {rank} ({ask['who']}) has a world of {ask['size']}, "
                f"and rank 0 ({_who()}) one of {size}",
                "give all ranks one WORLD_SIZE; are these two jobs at one MASTER_PORT?",
            )
        if other is not ask:
            self._refuse(
                "rank",
                f"two processes are rank {rank} of {size}: {other['who']}, and {ask['who']}",
                "give each process a RANK of its own; are these two jobs at one MASTER_PORT?",
            )

    def _refuse(self, *why: str) -> None:
        self.store.set(f"verdict/{self.name}", json.dumps(why))
        limit = time.monotonic() + _HEAR_SECONDS
        while self.store.add(f"heard/{self.name}", 0) < self.living:
            if time.monotonic() > limit:
                break
            time.sleep(_POLL_SECONDS)
        raise GroupError(*why)


def _who() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _peek(store: Any, key: str) -> Optional[str]:
    """The key's value, or None without waiting for it (``check`` is not in torch 1.13)."""
    absent = "-"  # compare_set leaves a key alone that is not there and gives back this
    value = str(store.compare_set(key, absent, absent).decode())
    return None if value == absent else value
