"""Ranks that meet, with threads for ranks: each has a connection of its own, as processes do."""

import os
import socket
import threading
import time

import pytest
import torch.distributed as dist

from pyhook import GroupError
from pyhook._meeting.endpoint import LISTEN, Endpoint
from pyhook._meeting.meeting import Meeting
from pyhook._meeting.store import _listen

TIMEOUT = 30.0


@pytest.fixture
def agent(monkeypatch):
    """The store that torchrun's agent keeps, and what it tells the ranks."""
    server = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    for name, value in {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def address(port):
    """Where rank 0 is to serve."""
    return f"tcp://127.0.0.1:{port}"


def attempt(method, ranks, timeout=TIMEOUT, sizes=None):
    """Let ranks, pairs of rank and delay, meet. What each reads of the key "who", which
    rank 0 sets late; and the errors, in the order of ``ranks``."""
    found, failed, kept = {}, {}, []
    size = 1 + max(rank for rank, _ in ranks)

    def run(number, rank, delay):
        time.sleep(delay)
        mine = (sizes or {}).get(rank, size)
        try:
            with Meeting(method, rank, mine, timeout) as meeting:
                store = meeting.store()
                kept.append(store)  # rank 0's serves the others
                if rank == 0:
                    time.sleep(0.05)
                    store.set("who", str(time.monotonic()))
                found[number] = store.get("who")
        except Exception as error:
            failed[number] = error

    threads = [
        threading.Thread(target=run, args=(number, *pair)) for number, pair in enumerate(ranks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found, failed


def codes(failed):
    assert not [error for error in failed.values() if not isinstance(error, GroupError)]
    return {number: error.code for number, error in failed.items()}


def test_ranks_of_each_attempt_meet_among_themselves(agent):
    seen = set()
    for delays in ([0, 0, 0], [0.2, 0, 0.1], [0, 0.3, 0], [0, 0, 0.3]):
        found, failed = attempt("env://", list(enumerate(delays)))
        assert not failed
        assert sorted(found) == [0, 1, 2]
        assert len(set(found.values())) == 1
        seen |= set(found.values())
    assert len(seen) == 4, "no attempt read what an earlier one left"


def test_what_the_dead_left_misleads_nobody(agent):
    # Rank 0 answers rank 1 and waits for rank 2; then ranks 1 and 2 ask no one.
    size = {0: 3, 1: 3}
    _, failed = attempt("env://", [(0, 0), (1, 0)], 1, size)
    assert codes(failed) == {0: "timeout", 1: "timeout"}
    assert all("ranks [2]" in str(error) for error in failed.values())
    _, failed = attempt("env://", [(1, 0), (2, 0)], 1)
    assert codes(failed) == {0: "timeout", 1: "timeout"}
    assert "without an answer of rank 0" in str(failed[0])
    found, failed = attempt("env://", [(0, 0), (1, 0.2), (2, 0.4)])
    assert not failed
    assert len(set(found.values())) == 1
    found, failed = attempt("env://", [(0, 0), (1, 0.2)])
    assert not failed, "the dead had another world size"


def test_rank_0_serves_the_others_whoever_comes_first(address):
    for delays in ([0, 0.2, 0.4], [0.5, 0, 0]):
        found, failed = attempt(address, list(enumerate(delays)))
        assert not failed
        assert len(found) == 3


def test_a_file_serves_many_times(tmp_path):
    for _ in range(2):
        found, failed = attempt(f"file://{tmp_path / 'store'}", [(0, 0), (1, 0.2), (2, 0)])
        assert not failed
        assert len(set(found.values())) == 1


def test_all_ranks_learn_that_one_is_there_twice(address):
    _, failed = attempt(address, [(0, 0), (1, 0), (1, 0), (2, 1)], 3)
    assert set(codes(failed).values()) <= {"rank", "timeout"}
    assert failed[0].code == "rank"
    assert "two processes are rank 1 of 3" in str(failed[0])
    assert f"process {os.getpid()}" in str(failed[0])


def test_all_ranks_learn_that_world_sizes_differ(address):
    _, failed = attempt(address, [(0, 0), (1, 0)], sizes={1: 3})
    assert codes(failed) == {0: "world_size", 1: "world_size"}
    assert "a world of 3" in str(failed[1])


def test_a_port_in_use_is_named(address):
    port = int(address.rpartition(":")[2])
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        _, failed = attempt(address, [(0, 0)], sizes={0: 2})
    assert codes(failed) == {0: "port_in_use"}


def test_an_address_of_another_host_is_named():
    _, failed = attempt("tcp://192.0.2.1:2", [(0, 0)], sizes={0: 2})
    assert codes(failed) == {0: "address"}
    assert LISTEN in str(failed[0])


def test_rank_0_may_listen_at_another_address_than_the_masters(address, monkeypatch):
    monkeypatch.setenv(LISTEN, "0.0.0.0")
    found, failed = attempt(address, [(0, 0), (1, 0)])
    assert not failed
    assert len(found) == 2


def test_a_name_that_is_loopback_here_alone_is_served_to_all(monkeypatch):
    resolved = [(2, 1, 6, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: resolved)
    for name, local, listens in (
        ("node1", "2", "0.0.0.0"), ("node1", "4", "127.0.1.1"), ("localhost", "2", "127.0.1.1"),
    ):  # fmt: skip
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        monkeypatch.setenv("WORLD_SIZE", "4")
        listening, _ = _listen(Endpoint(name, 0))
        assert listening.getsockname()[0] == listens
        listening.close()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4])
def test_what_is_no_store_is_named(says, first):
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        taken = []

        def serve():
            while True:
                try:
                    connection, _ = foreign.accept()
                    taken.append(connection)  # or it would be closed
                    if first or connection.recv(1):
                        connection.sendall(says)
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        method = f"tcp://127.0.0.1:{foreign.getsockname()[1]}"
        begin = time.monotonic()
        _, failed = attempt(method, [(1, 0)], 3, {1: 2})
        assert time.monotonic() - begin < 5
        foreign.shutdown(socket.SHUT_RDWR)
    assert codes(failed) == {0: "not_a_store" if says else "timeout"}


def test_a_stop_ends_it():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        with Meeting(f"tcp://127.0.0.1:{port}", 1, 2, 60) as meeting:
            threading.Timer(0.3, meeting.stop).start()
            begin = time.monotonic()
            with pytest.raises(GroupError):
                meeting.store()
            assert time.monotonic() - begin < 5


@pytest.mark.parametrize("method", ["tcp://", "tcp://host:", "tcp://host:0", "tcp://h:70000"])
def test_an_address_is_needed(method):
    with pytest.raises(GroupError):
        Endpoint.of(method)
