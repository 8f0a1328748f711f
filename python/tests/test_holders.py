"""What holds an object is found and given another, while other threads change it."""

from __future__ import annotations

import collections
import sys
import threading
from typing import Any, Callable

import pytest

from pyhook._renewal import holders


class Held:
    pass


def in_dict(holder: dict[Any, Any], i: int) -> None:
    holder[i] = i
    holder.pop(i - 5, None)


def in_deque(holder: collections.deque[Any], i: int) -> None:
    holder.append(i)
    holder.pop()


@pytest.mark.parametrize(
    ("holder", "change"),
    [({"held": None}, in_dict), (collections.deque([None]), in_deque)],
    ids=["dict", "deque"],
)
def test_another_thread_changes_the_holder(holder: Any, change: Callable[[Any, int], None]) -> None:
    olds, news = [Held()], [Held()]
    at = "held" if isinstance(holder, dict) else 0
    if isinstance(holder, dict):
        holder.update((i, i) for i in range(-50_000, 0))
    else:
        holder.extend(range(50_000))
    holder[at] = olds[0]
    over = threading.Event()

    def changing() -> None:
        i = 1
        while not over.is_set():
            change(holder, i)
            i += 1

    thread = threading.Thread(target=changing)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        for _ in range(20):
            assert holders.replace(olds, news) == []
            assert holder[at] is news[0]
            olds, news = news, olds
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_running_names_what_other_threads_are_in() -> None:
    inside, leave = threading.Event(), threading.Event()

    def stays() -> None:
        inside.set()
        leave.wait()

    thread = threading.Thread(target=stays)
    thread.start()
    inside.wait()
    try:
        assert [name.split(" (")[0] for name in holders.running() if "stays" in name] == ["stays"]
        assert not any("test_running" in name for name in holders.running())
    finally:
        leave.set()
        thread.join()
    assert not any("stays" in name for name in holders.running())
