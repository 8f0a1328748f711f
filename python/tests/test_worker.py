"""The meeting of worker processes; what they do to signals, Go's tests look at."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from pyhook import _worker


def test_a_group_of_one_needs_no_place_to_meet() -> None:
    store, name = _worker.meet("", 0, 1, 0, "")
    store.set("key", "value")
    assert store.get("key") == b"value"
    assert name


def test_all_ranks_get_the_name_of_the_group_and_one_store(tmp_path: Path) -> None:
    method = f"file://{tmp_path / 'store'}"
    store, name = _worker.meet(method, 0, 2, 10, "")
    other, same = _worker.meet(method, 1, 2, 10, "")
    assert same == name
    store.set("key", "value")
    assert other.get("key") == b"value"


def test_the_group_before_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    method = f"file://{tmp_path / 'store'}"
    _, former = _worker.meet(method, 0, 2, 10, "")
    met: list[str] = []
    late = threading.Thread(target=lambda: met.append(_worker.meet(method, 1, 2, 20, former)[1]))
    late.start()
    time.sleep(0.2)
    assert not met
    _, name = _worker.meet(method, 0, 2, 10, former)
    late.join()
    assert met == [name]
    assert name != former


def test_a_rank_whose_peers_stay_away_says_so(tmp_path: Path) -> None:
    method = f"file://{tmp_path / 'store'}"
    _, former = _worker.meet(method, 0, 2, 10, "")
    with pytest.raises(TimeoutError, match="rank 0"):
        _worker.meet(method, 1, 2, 0.2, former)


def test_an_address_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ValueError, match="MASTER_ADDR"):
        _worker.meet("env://", 0, 2, 1, "")
