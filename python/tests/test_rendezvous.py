"""The agent's store, with threads for ranks: each has a connection of its own, as processes do."""

import datetime
import threading
import time

import pytest
import torch.distributed as dist

from pyhook import _rendezvous

TIMEOUT = datetime.timedelta(seconds=30)


@pytest.fixture
def agent(monkeypatch):
    """The store that torchrun's agent keeps, and what it tells the ranks."""
    server = dist.TCPStore("127.0.0.1", 0, None, True, timeout=TIMEOUT, wait_for_workers=False)
    for name, value in {
        "TORCHELASTIC_USE_AGENT_STORE": "True", "RANK": "0", "WORLD_SIZE": "3",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert _rendezvous.agent_serves()
    return server


def attempt(delays, timeout=TIMEOUT):
    """Let ranks meet, each after its delay (None: it never comes). The value
    that each reads of the key "who", which rank 0 sets late."""
    found, failed = {}, {}

    def rank(number, delay):
        time.sleep(delay)
        try:
            store = _rendezvous.agent_store(number, len(delays), timeout)
            if number == 0:
                time.sleep(0.05)
                store.set("who", str(time.monotonic()))
            found[number] = store.get("who")
        except Exception as error:
            failed[number] = error

    threads = [
        threading.Thread(target=rank, args=(number, delay))
        for number, delay in enumerate(delays)
        if delay is not None
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found, failed


def test_ranks_of_each_attempt_meet_among_themselves(agent):
    seen = set()
    for delays in ([0, 0, 0], [0.2, 0, 0.1], [0, 0.3, 0], [0, 0, 0.3]):
        found, failed = attempt(delays)
        assert not failed
        assert sorted(found) == [0, 1, 2]
        assert len(set(found.values())) == 1
        seen |= set(found.values())
    assert len(seen) == 4, "no attempt read what an earlier one left"


def test_what_the_dead_left_misleads_nobody(agent):
    short = datetime.timedelta(seconds=1)
    # Rank 0 answers rank 1 and waits for rank 2; then ranks 1 and 2 ask no one.
    found, failed = attempt([0, 0, None], short)
    assert "ranks [2]" in str(failed[0])
    found, failed = attempt([None, 0, 0], short)
    assert sorted(failed) == [1, 2]
    found, failed = attempt([0, 0.2, 0.4])
    assert not failed
    assert len(set(found.values())) == 1


def test_the_ranks_that_did_not_come_are_named(agent):
    _, failed = attempt([0, None, None], datetime.timedelta(seconds=1))
    assert isinstance(failed[0], TimeoutError)
    assert "timed out waiting for ranks [1, 2]" in str(failed[0])


def test_other_launchers_do_not_come_here(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    for value in ("False", "", "1"):
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", value)
        assert not _rendezvous.agent_serves()
