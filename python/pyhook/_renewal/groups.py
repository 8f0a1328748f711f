"""End this rank's process groups after a step that failed, and make them anew.

A group whose last reference is dropped on a thread of gloo's own ends the process (see
``_meeting.join.destroy``). So whatever holds a group is found and given a ``RetiredGroup``, and the
last reference is dropped on a thread of its own. Afterwards what holds the RetiredGroup gets
the new group, whichever way the hook or its state keeps it.
"""

from __future__ import annotations

import contextlib
import datetime
import sys
import threading
import time
import types
from typing import Any, Callable, NamedTuple, Optional

import torch
import torch.distributed as dist

from .._device import streams
from .._errors import GroupError
from .._meeting.drop import drop
from .._runtime import collectives, issued
from . import holders
from .meeting import Cancelled, Meeting
from .retired import RetiredGroup, set_default

_ALONE = 2
"""References to a group that only ``_leaving`` holds: the list's, and getrefcount's argument."""
_POLL_SECONDS = 0.005
_LOOK_SECONDS = (0.02, 2.0)
"""Between two searches for what holds a group: at first, and at most. One takes half a second."""
_ISSUING_SECONDS = 1.0
"""How long ``retire`` waits for threads that issue a collective."""
_SHOWN = 4
"""How many holders are named."""
_COLLECT_SECONDS = 0.25
"""Between two calls of the Go side's garbage collector."""
_HELD_SECONDS = 1.0
"""How long ``make`` waits for holders in which a group cannot be replaced."""
_INSIDE_SECONDS = 10.0
"""How long ``make`` waits for hook calls that are inside, and other variables of functions."""


class Renewal:
    """All groups of this process. The Go side calls it, one method at a time but for ``cancel``.

    Args:
        collect: drops the references of the handles that the Go side has forgotten. Python's
            garbage collector does not see those.
    """

    def __init__(self, collect: Callable[[], None]) -> None:
        self.generation = 0
        self._collect = collect
        self._store: Any = None  # of the first groups
        self._plan: Optional[_Plan] = None  # from the first retire to commit
        self._stand_ins: dict[str, RetiredGroup] = {}  # by the former groups' names
        self._made: dict[str, Any] = {}  # by the names of the groups that they replace
        self._leaving: list[Any] = []
        self._twins: dict[int, RetiredGroup] = {}  # by the ids of what is leaving
        self._failed_look = ""  # why the last one that failed did
        self._left: list[str] = []  # what holds a group and cannot hold another
        self._asked = 0.0  # when make asked for that: an earlier look may name what let go since
        self._lock = threading.Lock()
        self._dropping = False  # whether a thread does
        self._attempt = 0
        self._cancelled = threading.Event()  # the attempt is
        self._meeting: Optional[Meeting] = None

    def retire(self, held: list[Any]) -> list[int]:
        """Destroy the groups, and let go of them.

        Args:
            held: what the Go side holds: groups, states. In the list they are replaced too.

        Returns:
            The indices of what was replaced.
        """
        c10d = dist.distributed_c10d
        world = dist.group.WORLD
        if world is None or isinstance(world, RetiredGroup):
            return []
        if self._plan is None:
            self._store = self._store or c10d._pg_map[world][1]
            self._plan = _Plan(world)
            self._stand_ins = {name: RetiredGroup(name) for name in c10d._pg_names.values()}
            former = {id(group): name for group, name in c10d._pg_names.items()}
        else:  # made by an attempt that failed
            former = {id(group): name for name, group in self._made.items()}
            self._made = {}
        del world
        groups = list(c10d._pg_names)
        stand_ins = [
            self._stand_ins[former[id(group)]] if id(group) in former else RetiredGroup("")
            for group in groups
        ]
        with issued.ending(_ISSUING_SECONDS):
            for group in groups:
                with contextlib.suppress(Exception):
                    collectives.abort(group)
            del group
            dist.destroy_process_group()
            set_default(self._stand_ins[self._plan.world_name])
            before = list(map(id, held))
            holders.replace(groups, stand_ins, [self._leaving])
        self._twins.update(zip(map(id, groups), stand_ins))
        with self._lock:
            self._leaving += groups
            groups.clear()
            if not self._dropping:
                self._dropping = True
                threading.Thread(target=self._drop, name="pyhook-retire", daemon=True).start()
        return [i for i, was in enumerate(before) if id(held[i]) != was]

    def _drop(self) -> None:
        """Drop each group's last reference when nothing else refers to it.

        Each on a thread of its own: its end may wait, for a hook's callback that runs perhaps.
        """
        leaving, interval, looked = self._leaving, _LOOK_SECONDS[0], 0.0
        look_at = time.monotonic() + interval
        while True:
            with self._lock:
                if not leaving:
                    self._left, self._dropping = [], False
                    return
            for i in reversed(range(len(leaving))):
                if sys.getrefcount(leaving[i]) <= _ALONE:
                    del self._twins[id(leaving[i])]
                    threading.Thread(
                        target=drop,
                        args=([leaving.pop(i)], 0),
                        name="pyhook-retire-one",
                        daemon=True,
                    ).start()
            now = time.monotonic()
            if leaving and (now >= look_at or self._asked > looked):
                looked = now
                names = self._look(leaving)
                if looked >= self._asked:
                    self._left = names
                interval = min(interval * 3, _LOOK_SECONDS[1])
                look_at = time.monotonic() + interval
            time.sleep(_POLL_SECONDS)

    def _look(self, leaving: list[Any]) -> list[str]:
        """Replace the groups wherever that is possible. Return the names of where it is not."""
        try:
            left = holders.replace(leaving, [self._twins[id(g)] for g in leaving], deep=True)
            return [
                holders.describe(holder)
                for holder in left[:_SHOWN]
                if not isinstance(holder, types.FrameType)
            ]
        except Exception as error:  # of a holder's own code perhaps; the next look may do
            self._failed_look = f"{type(error).__name__}: {error}"
            return []

    def cancel(self, attempt: int) -> None:
        """End a ``make`` or ``commit`` of that attempt that waits. For any thread, at any time."""
        with self._lock:
            if attempt == self._attempt:
                self._cancelled.set()

    def make(self, attempt: int) -> int:
        """Meet the other ranks and make the groups anew.

        Args:
            attempt: the attempt's number, another for each.

        Returns:
            The generation, which is every rank's.

        Raises:
            GroupError: also where another rank says why it cannot.
            Cancelled: it says what was waited for.
        """
        plan = self._plan
        if plan is None:
            raise GroupError("not_initialized", "no process group was retired")
        if self._meeting is None:
            self._meeting = Meeting(self._store, plan.rank, plan.size)
        with self._lock:
            self._attempt = attempt
            self._cancelled.clear()
        self._wait_devices()
        said = {
            "generation": self.generation,
            "groups": [sub._asdict() for sub in plan.subs],
            "refused": self._wait_let_go(),
        }
        number, all_said = self._meeting.meet(said, self._cancelled)
        for rank, one in enumerate(all_said):
            if one["refused"]:
                raise GroupError(
                    "init_failed", f"rank {rank} cannot make its groups anew: {one['refused']}"
                )
        try:
            self._make(plan, number, all_said)
        except Exception as error:
            if dist.group.WORLD is None:
                set_default(self._stand_ins[plan.world_name])
            why = f"{type(error).__name__}: {error}"
            self._meeting.fail(why)
            raise GroupError("init_failed", f"the groups could not be made anew: {why}") from error
        return 1 + max(int(one["generation"]) for one in all_said)

    def _wait_let_go(self) -> str:
        """Wait until the former groups are let go of. Return why they are not."""
        begin = collected = time.monotonic()
        self._left, self._failed_look, self._asked = [], "", begin
        while self._leaving:
            now = time.monotonic()
            waited = now - begin
            if now >= collected + _COLLECT_SECONDS:
                self._collect()
                collected = now
            if self._left and waited > _HELD_SECONDS:
                break
            if waited > _INSIDE_SECONDS:
                break
            if self._cancelled.wait(_POLL_SECONDS):
                raise Cancelled(f"waiting until {self._holder()} lets go of a group{self._known()}")
        if not self._leaving:
            return ""
        return (
            f"{self._holder()} holds a former group, and it cannot be replaced there{self._known()}"
        )

    def _wait_devices(self) -> None:
        """Wait until devices are done with what the failed step has under way.

        Else a write of it could come into the next step, and so could its failure, since a device
        says so to whoever next waits for it.
        """
        thread = threading.Thread(target=streams.wait_out, name="pyhook-wait-out", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            if self._cancelled.is_set():
                raise Cancelled("waiting for what the failed step has under way on a device")

    def _holder(self) -> str:
        return "; ".join(self._left) or (
            "a hook call that is inside, an object that Go code holds, or code in C++,"
        )

    def _known(self) -> str:
        """Say what may help to find a holder that has no name."""
        if self._left:
            return ""
        known = [f"in Python {name} runs" for name in holders.running()[:_SHOWN]]
        if self._failed_look:
            known.append(f"to look for more failed: {self._failed_look}")
        return "".join(f"; {one}" for one in known)

    def _make(self, plan: _Plan, number: int, all_said: list[Any]) -> None:
        store = dist.PrefixStore(f"pyhook/generation/{number}", self._store)
        set_default(None)
        dist.init_process_group(store=store, **plan.options)
        self._made = {plan.world_name: dist.group.WORLD}
        subs = {one["name"]: one for said in all_said for one in said["groups"]}
        for name in sorted(subs, key=_order):
            group = dist.new_group(**_Sub(**subs[name]).options())
            if plan.rank in subs[name]["ranks"]:
                self._made[name] = group

    def adopt(self, held: list[Any]) -> list[int]:
        """Put the new groups where the former ones were: ``retire``'s reverse.

        Raises:
            GroupError: it names what holds a former group and cannot hold another.
        """
        before = list(map(id, held))
        names = [name for name in self._stand_ins if name in self._made]
        olds, news = [self._stand_ins[n] for n in names], [self._made[n] for n in names]
        left = holders.replace(olds, news, [self._stand_ins])
        if left:
            what = "; ".join(holders.describe(holder) for holder in left[:_SHOWN])
            raise GroupError(
                "init_failed", f"{what} holds a retired group, and it cannot be replaced there"
            )
        return [i for i, was in enumerate(before) if id(held[i]) != was]

    def fail(self, why: str) -> None:
        """Tell the other ranks that this one could not go on after ``make``."""
        if self._meeting is not None:
            self._meeting.fail(why)

    def commit(self, generation: int) -> None:
        """Wait until all ranks have done the same."""
        assert self._meeting is not None
        if self._cancelled.is_set():
            self._meeting.fail("gave up")
            raise Cancelled("waiting for the backend to connect the ranks")
        self._meeting.commit(self._cancelled)
        self.generation = generation
        self._plan, self._stand_ins, self._made = None, {}, {}


class _Sub(NamedTuple):
    """A sub-group, as it is made."""

    name: str
    ranks: list[int]
    backend: str
    timeout: Optional[float]

    def options(self) -> dict[str, Any]:
        return _options(self.timeout, ranks=self.ranks, backend=self.backend)


class _Plan:
    """What the groups are made anew with."""

    def __init__(self, world: Any) -> None:
        c10d = dist.distributed_c10d
        self.rank, self.size = int(world.rank()), int(world.size())
        self.world_name = c10d._pg_names[world]
        self.options = _options(
            _timeout(world), backend=_backend(world), rank=self.rank, world_size=self.size
        )
        self.subs = []
        for group, name in c10d._pg_names.items():
            if group is world:
                continue
            ranks = sorted(c10d._pg_group_ranks[group].items(), key=lambda pair: pair[1])
            self.subs.append(_Sub(name, [r for r, _ in ranks], _backend(group), _timeout(group)))


def _options(timeout: Optional[float], **options: Any) -> dict[str, Any]:
    if timeout is not None:
        options["timeout"] = datetime.timedelta(seconds=timeout)
    return options


def _backend(group: Any) -> str:
    name = str(dist.distributed_c10d._pg_map[group][0])
    if name in ("undefined", "custom"):  # "cpu:gloo,cuda:nccl"
        return str(dist.distributed_c10d._world.pg_backend_config[group])
    return name


def _timeout(group: Any) -> Optional[float]:
    """A group's own timeout, in seconds; None: not known, so torch's default."""
    for device in (None, "cpu", "cuda"):
        with contextlib.suppress(Exception):
            part = group if device is None else group._get_backend(torch.device(device))
            return float(part.options._timeout.total_seconds())
    return None


def _order(name: str) -> tuple[int, int, str]:
    """Torch counts groups; those of new_group(use_local_synchronization=True) have other names."""
    return (0, int(name), "") if name.isdigit() else (1, 0, name)
