"""How the ranks of a job meet: by pyhook's protocol, or by torch's where some are plain torch.

A store may outlive the ranks that met there. torchrun's agent keeps one over all restarts
(pytorch#167288: env:// of torch 2.6 and later finds the dead ranks' addresses in it), a worker
that is started anew may come before rank 0's does, and a file stays. So rank 0 makes a name
for each attempt. Each other rank asks for it with a random word, which no answer to an earlier
rank can bear. Rank 0 answers every word that it finds, also those of the dead; the living
confirm that they know the name. When all ranks have, or one cannot belong to the job, rank 0
writes its verdict, which every rank reads.

A rank that calls ``torch.distributed.init_process_group`` itself asks nobody, but torch counts
it in the store as it connects (``StoreClient.workers``). Rank 0 writes the verdict "plain" when
each rank that has not asked is counted; a rank that finds such a count, and no rank 0 that
answers, needs no verdict. The ranks then use the keys that torch itself uses.
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

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from .._errors import GroupError
from . import identity, interface, store_client
from .connections import connections, sever
from .endpoint import Endpoint, one_host
from .rank_zero import ANSWERS, HEAR_SECONDS, PLAIN, POLL_SECONDS, RankZero, unreachable
from .store import NotYet, OtherTorch, agents, connect, peek, publish, serve

_SEVER_SECONDS = 0.75
"""How long past the timeout it takes until connections are shut down."""
_REPORT_SECONDS = 5.0
"""How long a rank of another torch waits until rank 0 has given all ranks the verdict on it."""
_NOTICE_SECONDS = (10.0, 60.0)
"""After how long a rank says what it waits for: first, and from then on."""

MEETING_SECONDS = 300.0
"""The timeout of a meeting where none is given."""


class Meeting:
    """One rank's attempt to find the others, until a deadline or ``stop``.

    As a context manager it supervises what is done inside: soon after the deadline it shuts
    down the connections to the store that were made since, again and again. torch waits for
    a store's answer without a limit of time, and would wait forever for a frozen process.

    ``method`` is "env://", "tcp://host:port" or "file://path". With "?" at its end the ranks
    meet by torch's own protocol, whoever the others are.
    """

    def __init__(
        self, method: str, rank: int, size: int, seconds: float, gloo: bool = True
    ) -> None:
        """``gloo``: whether the group's backend is gloo, so that others must reach it."""
        self.rank, self.size, self.seconds, self.gloo = rank, size, seconds, gloo
        self._method, query, _ = method.partition("?")
        self.plain = bool(query)
        """Whether the ranks meet by torch's own protocol."""
        self.endpoint = Endpoint.of(self._method)
        self.stopped = False
        self.waits = ""
        """For what, in words; empty where another rank says it."""
        self._wire: Optional[store_client.StoreClient] = None
        self._agents = 0
        self._begin = time.monotonic()
        self._deadline = self._begin + seconds
        if rank != 0:
            self._deadline += HEAR_SECONDS
        self._sever_at = time.monotonic() + seconds + _SEVER_SECONDS
        self._done = False
        self._wake = threading.Event()
        self._before = connections(self.endpoint.port)

    def __enter__(self) -> Meeting:
        threading.Thread(target=self._supervise, name="pyhook-meeting", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        self._wake.set()
        self._close_wire()

    def stop(self) -> None:
        """End the attempt. For any thread."""
        self.stopped = True
        self._wake.set()

    def over(self) -> bool:
        """Return whether it was stopped or is too late."""
        return self.stopped or time.monotonic() >= self._deadline

    def _supervise(self) -> None:
        notice = self._begin + _NOTICE_SECONDS[0]
        while not self._wake.wait(min(notice, self._sever_at) - time.monotonic()):
            if time.monotonic() >= self._sever_at:
                break
            self._notice()
            notice += _NOTICE_SECONDS[1]
        while not self._done:
            sever(self.endpoint.port, self._before)
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
        """Return a store for ``init_process_group``.

        No other attempt uses its keys, unless ``plain`` is then True.

        Raises:
            GroupError: ``timeout`` (naming the ranks that did not come, where rank 0
                still could), ``rank``, ``world_size``, ``address``, ``port_in_use``,
                ``not_a_store``, ``torch_version``, ``protocol``.
        """
        self.waits = f"for rank 0 at {self.endpoint}"
        while True:
            last: Exception
            try:
                store = self._open()
                name = None if self.plain else self._agree(dist.PrefixStore("pyhook", store))
                if name is None:
                    return self._plain_store(store)
                self.waits = "for the backend to connect the ranks, which have all met"
                return dist.PrefixStore(f"pyhook/{name}", store)
            except OtherTorch as error:
                raise self._other_torch(error) from None
            except NotYet as error:
                last = error
            except (RuntimeError, OSError) as error:
                # Rank 0's process ended: that of the attempt before this one, perhaps.
                if isinstance(error, GroupError) or (self._serves() and not self.over()):
                    raise
                last = error
            if self.over():
                raise self._late(last) from last
            if self.rank != 0:
                self.waits = f"for rank 0 at {self.endpoint}: {_first_line(last)}"
            time.sleep(5 * POLL_SECONDS[0])

    def _late(self, last: Exception) -> GroupError:
        text = _first_line(last)
        if self._serves() and isinstance(last, NotYet):
            return GroupError(
                "address",
                f"rank 0 of {self.size} cannot serve the store at {self.endpoint}: {text}",
                "MASTER_ADDR must be an address of the host that rank 0 runs on, or its name",
            )
        return GroupError(
            "timeout",
            f"rank {self.rank} of {self.size} timed out after {self.seconds:g} s without an "
            f"answer of rank 0 at {self.endpoint}: {text}",
            "was rank 0 started, does it run, and is its port open to this host? Or do all "
            "ranks of that job have each other already, and this is one of another job?",
        )

    def _serves(self) -> bool:
        return self.rank == 0 and not self.endpoint.agent and not self.endpoint.path

    def _open(self) -> Any:
        left = datetime.timedelta(seconds=max(self._left(), 0.1))
        if self.endpoint.path:
            store = dist.FileStore(self.endpoint.path, self.size if self.plain else -1)
            store.set_timeout(left)
            return store
        self._close_wire()
        if self._serves():
            store, self._wire = serve(self.endpoint, left)
        else:
            store, self._wire = connect(self.endpoint, left, self._left())
        self._wire.limit(self._left() + 1)  # rank 0 looks once more when its time is over
        self._agents = agents(self._wire) if self.endpoint.agent else 0
        return store

    def _close_wire(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def plain_ranks(self) -> int:
        """Return how many ranks have come by torch's own protocol, in all attempts."""
        return 0 if self._wire is None else self._wire.workers() - self._agents

    def me(self) -> dict[str, Any]:
        """Return what this rank says of itself."""
        address = ""
        if self.gloo and not one_host():
            address = interface.announced(self.endpoint.host, self.endpoint.port)
        return identity.of_this_process(self.rank, self.size, address)

    def _agree(self, store: Any) -> Optional[str]:
        """Return the attempt's name, or None where some ranks are plain torch."""
        if self.rank == 0:
            name = RankZero(self, store, answers=self._serves()).gather()
        else:
            name = self._ask(store)
        if name is None:
            return None
        text = peek(store, f"others/{name}")  # published before the verdict
        if text is None:
            raise GroupError(
                "protocol",
                f"rank 0 at {self.endpoint} has an older pyhook",
                "build all ranks' programs with one version of pyhook",
            )
        others = json.loads(text)
        if others is not None and not interface.choose(
            self.endpoint.host, self.endpoint.port, others
        ):
            raise GroupError(*unreachable(self.me()))
        return name

    def _ask(self, store: Any) -> Optional[str]:
        """Return rank 0's answer, as ``_agree`` does. ``store`` is torch's or a ``StoreClient``."""
        word = uuid.uuid4().hex
        number = store.add("asks", 1)
        publish(store, f"ask/{number}", json.dumps({"word": word, **self.me()}))
        self.waits = (
            f"for an answer of rank 0 at {self.endpoint}, where a store is, perhaps another job's"
        )
        name = self._answer_to(store, word)
        if name is None:
            return None
        store.add(f"knows/{name}/{word}", 1)
        # Rank 0 names who is missing. One rank of each other host says that it waits.
        first = os.environ.get("LOCAL_RANK", "0") == "0"
        self.waits = f"with rank 0 at {self.endpoint} for other ranks" if first else ""
        verdict = json.loads(store.get(f"verdict/{name}"))
        store.add(f"heard/{name}", 1)
        if verdict == PLAIN:
            return None
        if verdict:
            raise GroupError(*verdict)
        return name

    def _answer_to(self, store: Any, word: str) -> Optional[str]:
        """Return the attempt's name, or None: no rank 0 answers, and some ranks are plain."""
        if self._wire is None:
            name = store.get(f"answer/{word}")
            return name.decode() if isinstance(name, bytes) else str(name)
        pause = POLL_SECONDS[0]
        while True:
            name = self._wire.peek(f"answer/{word}")
            if name is not None:
                return name
            if self.plain_ranks() > 0 and store.add(ANSWERS, 0) == 0:
                return None
            if self.over():
                raise NotYet("it has not answered")
            time.sleep(pause)
            pause = min(1.2 * pause, POLL_SECONDS[1])

    def _plain_store(self, store: Any) -> Any:
        """Return the store that ``init_process_group(init_method=...)`` makes of its method."""
        self.plain = True
        self.waits = "for ranks that meet by torch's own init_process_group, as some do"
        left = datetime.timedelta(seconds=max(self._left(), 0.1))
        if self.endpoint.host and not one_host():
            interface.choose(self.endpoint.host, self.endpoint.port, [])
        if self.endpoint.agent:  # under which keys depends on torch's release
            store, _, _ = next(rendezvous(self._method, self.rank, self.size, timeout=left))
            store.set_timeout(left)
        elif self._wire is not None:
            self._wire.workers(1)  # rank 0 waits for this
        return dist.PrefixStore("default_pg", store)

    def _other_torch(self, found: OtherTorch) -> GroupError:
        """Ask rank 0 all the same, so that all ranks get its verdict; else say it here."""
        me = self.me()
        store = found.store
        try:
            if self.rank != 0:
                store.limit(max(min(_REPORT_SECONDS, self._left()), 0.1))
                self._ask(store)
        except GroupError as verdict:
            return verdict
        except (OSError, ValueError):
            pass  # rank 0 has another torch than the store, too, or is not there yet
        finally:
            store.close()
        agent = self.endpoint.agent
        server = "torchrun's agent" if agent else "rank 0"
        return GroupError(
            "torch_version",
            f"the store at {self.endpoint}, which {server} serves, is of a torch "
            f"{store_client.ABOUT[store.dialect]}, and rank {me['rank']} ({me['who']}) has torch "
            f"{me['torch']} in {me['python']}: they cannot speak with each other",
            "start the ranks by the torchrun of their own environment, or set PYHOOK_PYTHON to "
            "the Python that torchrun has"
            if agent
            else "have one torch on all hosts; PYHOOK_PYTHON chooses the interpreter",
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error) else type(error).__name__
