"""What ranks tell of themselves as they meet, and what they say while they wait."""

import datetime
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
import torch
import torch.distributed as dist
from test_rendezvous import address, agent, attempt, codes  # noqa: F401  (two are fixtures)

from pyhook import GroupError
from pyhook._meeting import identity, interface, join, store_client
from pyhook._meeting.endpoint import Endpoint
from pyhook._meeting.meeting import Meeting
from pyhook._meeting.rank_zero import RankZero
from pyhook._meeting.store import publish


def ask(endpoint, **changes):
    """Come to rank 0 as a rank that says other things of itself, over the real protocol.
    Returns the verdict."""
    deadline = time.monotonic() + 20
    while True:
        store = store_client.greet(endpoint.host, endpoint.port, store_client.own_dialect(), 5)
        if store is not None:
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)
    me = {**identity.of_this_process(1, 2, ""), "word": "w", **changes}
    me = {key: value for key, value in me.items() if value is not None}
    store.limit(10)
    number = store.add("asks", 1)
    publish(store, f"ask/{number}", json.dumps(me))
    name = store.get("answer/w")
    store.add(f"knows/{name}/w", 1)
    verdict = json.loads(store.get(f"verdict/{name}"))
    store.add(f"heard/{name}", 1)
    store.close()
    return verdict


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"torch": "9.9.1+cpu"}, "torch_version", "has 9.9.1+cpu in"),
        ({"protocol": 99}, "protocol", "version 99"),
        ({"protocol": None, "torch": None}, "protocol", "an older pyhook"),
    ],
)
def test_ranks_that_cannot_be_of_one_job_learn_it_at_once(address, changes, code, says):  # noqa: F811
    verdicts = []
    other = threading.Thread(target=lambda: verdicts.append(ask(Endpoint.of(address), **changes)))
    other.start()
    begin = time.monotonic()
    # A world of 3: rank 2 has not come, and nobody waits for it.
    _, failed = attempt(address, [(0, 0)], 60, {0: 3 if code != "torch_version" else 2})
    other.join(20)
    assert time.monotonic() - begin < 10
    assert codes(failed) == {0: code}
    assert says in str(failed[0])
    assert verdicts[0][0] == code, "and the other rank hears the same"
    assert verdicts[0][1] in str(failed[0])
    if code == "torch_version":
        assert str(torch.__version__) in str(failed[0])
        assert "PYHOOK_PYTHON" in str(failed[0])


def test_builds_of_one_release_fit_each_other(address):  # noqa: F811
    release = identity.release(str(torch.__version__))
    verdicts = []
    other = threading.Thread(
        target=lambda: verdicts.append(ask(Endpoint.of(address), torch=f"{release}.7+other"))
    )
    other.start()
    found, failed = {}, {}
    try:
        with Meeting(address, 0, 2, 30) as meeting:
            found[0] = meeting.store()
            other.join(20)
    except GroupError as error:
        failed[0] = error
    assert not failed
    assert verdicts == [None]


class OtherTorchsStore:
    """A TCPStore whose dialect this torch does not speak; what it keeps is in a real store.

    Like a real one it closes the connection that speaks the other dialect.
    """

    def __init__(self):
        new = store_client.own_dialect() == store_client.NEW
        self.dialect = store_client.OLD if new else store_client.NEW
        self.kept = dist.HashStore()
        self.listening = socket.socket()
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen()
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listening.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection:
            try:
                if self.dialect == store_client.NEW:
                    assert self.read(connection, 5) == b"\0" + struct.pack("=I", 0x3C85F7CE)
                while True:
                    self.answer(connection, self.read(connection, 1)[0] - self.dialect)
            except (AssertionError, EOFError, OSError):
                pass

    def answer(self, connection, query):
        key = self.text(connection)
        if query == 0:
            self.kept.set(key, self.text(connection))
        elif query == 1:
            expected, desired = self.text(connection), self.text(connection)
            assert expected == desired == "-", "a key that is absent stays so"
            value = self.peek(key) or b"-"
            connection.sendall(struct.pack("=Q", len(value)) + value)
        elif query == 3:
            (amount,) = struct.unpack("=q", self.read(connection, 8))
            connection.sendall(struct.pack("=q", self.kept.add(key, amount)))
        else:
            raise EOFError

    def peek(self, key):
        # Not by compare_set: torch 1.13 makes its bytes without the GIL.
        try:
            self.kept.wait([key], datetime.timedelta(milliseconds=1))
        except RuntimeError:
            return None
        return self.kept.get(key)

    def text(self, connection):
        (size,) = struct.unpack("=Q", self.read(connection, 8))
        assert size < 1 << 20
        return self.read(connection, size).decode()

    def read(self, connection, size):
        data = b""
        while len(data) < size:
            part = connection.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data


def test_a_store_of_another_torch_is_named_at_once_by_all(monkeypatch):
    """torchrun's agent has it, and no rank's torch can speak with it."""
    store = OtherTorchsStore()
    for name, value in {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pyhook._meeting.meeting._REPORT_SECONDS", 1)
    with pytest.raises(GroupError, match="torchrun's agent serves") as failed:
        join.init_process_group("gloo", "env://?", 1, 2, 60)
    assert failed.value.code == "torch_version"
    begin = time.monotonic()
    _, failed = attempt("env://", [(0, 0), (1, 0)], 60)
    assert time.monotonic() - begin < 15, "60 s would have been the timeout"
    assert codes(failed) == {0: "torch_version", 1: "torch_version"}
    for number, error in failed.items():
        assert "torchrun's agent serves" in str(error)
        assert f"rank {number}" in str(error)
        assert f"torch {torch.__version__}" in str(error)


def test_rank_0_of_another_torch_hears_of_the_rank_that_cannot_speak_with_it(monkeypatch):
    """Two hosts: rank 0's store is of another torch. Both say which rank has which."""
    served = OtherTorchsStore()
    method = f"tcp://127.0.0.1:{served.port}"
    meeting = Meeting(method, 0, 2, 60)  # rank 0's, beside its own store
    other = RankZero(meeting, dist.PrefixStore("/pyhook", served.kept))
    theirs = []

    def host():
        with pytest.raises(GroupError) as failed:
            other.gather()
        theirs.append(failed.value)

    rank_0 = threading.Thread(target=host)
    rank_0.start()
    own = str(torch.__version__)
    monkeypatch.setattr(torch, "__version__", "8.8.0")  # rank 1 reads it from here on
    _, failed = attempt(method, [(1, 0)], 60)
    monkeypatch.setattr(torch, "__version__", own)
    rank_0.join(20)
    assert codes(failed) == {0: "torch_version"}
    assert theirs[0].code == "torch_version"
    assert str(theirs[0]) == str(failed[0])
    assert "rank 1" in str(failed[0])
    assert "has 8.8.0" in str(failed[0])
    assert own in str(failed[0])


def test_dialects_are_recognised_and_understood():
    limit = {"use_libuv": False} if "use_libuv" in (dist.TCPStore.__init__.__doc__ or "") else {}
    server = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False, **limit)
    mine = store_client.own_dialect()
    begin = time.monotonic()
    assert store_client.greet("127.0.0.1", server.port, 1 - mine, 1) is None
    assert time.monotonic() - begin < 5
    client = store_client.find("127.0.0.1", server.port, 5)
    assert client.dialect == mine
    assert client.add("/number", 3) == server.add("number", 0) == 3
    client.set("/text", "from here")
    assert server.get("text") == b"from here"
    assert client.peek("absent") is None
    server.set("answer", "from there")
    assert client.get("/answer") == "from there"
    client.limit(0.2)
    with pytest.raises(TimeoutError):
        client.get("absent")
    client.close()


def test_who_is_missing_is_said_while_ranks_wait(address, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr("pyhook._meeting.meeting._NOTICE_SECONDS", (1.0, 60.0))
    _, failed = attempt(address, [(0, 0), (1, 0)], 2.5, {0: 4, 1: 4})
    assert codes(failed) == {0: "timeout", 1: "timeout"}
    said = capsys.readouterr().err
    port = address.rpartition(":")[2]
    assert f"pyhook: rank 0 of 4 has waited 1 s at 127.0.0.1:{port} for ranks [2, 3]; it" in said
    assert f"rank 1 of 4 has waited 1 s with rank 0 at 127.0.0.1:{port} for other ranks" in said
    assert said.count("pyhook: ") == 2, "once each"


def test_a_rank_that_waits_for_rank_0_says_so_and_why(address, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr("pyhook._meeting.meeting._NOTICE_SECONDS", (1.0, 60.0))
    attempt(address, [(1, 0)], 2, {1: 2})
    assert "rank 1 of 2 has waited 1 s for rank 0 at 127.0.0.1:" in (
        said := capsys.readouterr().err
    )
    assert "Connection refused" in said


def test_a_meeting_has_5_minutes_and_collectives_torchs_30(monkeypatch):
    seen = []

    class Stop(Exception):
        pass

    def meeting(method, rank, size, seconds, gloo):
        seen.append(seconds)
        raise Stop

    monkeypatch.setattr(join, "Meeting", meeting)
    for given in ((0, 0), (7, 0), (0, 9), (7, 9)):
        with pytest.raises(GroupError, match="Stop"):
            join.init_process_group("gloo", "tcp://127.0.0.1:1", 1, 2, given[0], None, given[1])
    assert seen == [300, 7, 9, 9]


ALONE = """
import sys
from pyhook._meeting import join
import torch.distributed as dist
join.init_process_group("gloo", "tcp://[::1]:" + sys.argv[1], 0, 2, 0, None, 20)
store = dist.distributed_c10d._get_default_store()
print(dist.get_world_size(), store.timeout.total_seconds() if hasattr(store, "timeout") else 1800)
"""
OTHER = """
import sys
from pyhook._meeting import join
join.init_process_group("gloo", "env://", -1, -1, 0, None, 20)
"""


def test_ipv6_in_brackets_or_without(address):  # noqa: F811
    """Two processes: rank 0 by tcp://[::1]:port, rank 1 by MASTER_ADDR=[::1]."""
    port = address.rpartition(":")[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    theirs = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "[::1]", "MASTER_PORT": port}
    programs = [
        subprocess.Popen([sys.executable, "-c", text, port], env={**env, **more}, **TEXT)
        for text, more in ((ALONE, {}), (OTHER, theirs))
    ]
    said = [program.communicate(timeout=120) for program in programs]
    assert [program.returncode for program in programs] == [0, 0], said
    assert said[0][0] == "2 1800.0\n" or said[0][0] == "2 1800\n"


TEXT = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_endpoint(monkeypatch, host):
    monkeypatch.setenv("MASTER_ADDR", host)
    monkeypatch.setenv("MASTER_PORT", "29500")
    endpoint = Endpoint.of("env://")
    assert endpoint.host == "::1"
    assert str(endpoint) == "[::1]:29500"


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [
        ("[::1", "29500", "invalid host '[::1'"),
        ("host0", "tcp://10.96.3.1:29500", "enableServiceLinks: false"),
        ("host0", "none", "invalid port 'none'"),
    ],
)
def test_an_invalid_endpoint_is_refused_at_once(monkeypatch, host, port, says):
    monkeypatch.setenv("MASTER_ADDR", host)
    monkeypatch.setenv("MASTER_PORT", port)
    with pytest.raises(GroupError) as failed:
        Endpoint.of("env://")
    assert failed.value.code == "address"
    assert says in str(failed.value)


def test_the_addresses_of_this_host_are_found():
    assert ("lo", "127.0.0.1") in interface._addresses()
    assert interface.local_address("127.0.0.1", 1) == "127.0.0.1"
    for address_, loopback in {
        "127.0.1.1": True, "::1": True, "10.0.0.1": False, "fe80::1": False, "": False,
    }.items():  # fmt: skip
        assert interface.is_loopback(address_) == loopback, address_


def test_an_older_rank_0_is_named(address):  # noqa: F811
    """It answers and gives its verdict, and knows nothing of hosts."""
    at = Endpoint.of(address)
    limit = {"use_libuv": False} if "use_libuv" in (dist.TCPStore.__init__.__doc__ or "") else {}
    server = dist.TCPStore(at.host, at.port, None, True, wait_for_workers=False, **limit)
    rank_0 = dist.PrefixStore("pyhook", server)

    def answer():
        ask = json.loads(rank_0.get("ask/1").decode())
        rank_0.set(f"answer/{ask['word']}", "name")
        rank_0.set("verdict/name", "null")

    threading.Thread(target=answer, daemon=True).start()
    begin = time.monotonic()
    _, failed = attempt(address, [(1, 0)], 60, {1: 2})
    assert time.monotonic() - begin < 20
    assert codes(failed) == {0: "protocol"}
    assert "rank 0 at 127.0.0.1:" in str(failed[0])
