"""Ranks of pyhook and ranks that call torch's own init_process_group in one job."""

import datetime
import multiprocessing
import os
import time

import pytest
import torch
import torch.distributed as dist
from test_rendezvous import address, agent, attempt  # noqa: F401  (two are fixtures)
from torch.distributed.elastic.agent.server import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from pyhook._meeting import join
from pyhook._meeting.meeting import Meeting
from pyhook._meeting.torch_build import torch_version

context = multiprocessing.get_context("forkserver")  # each rank has torch imported
context.set_forkserver_preload(["torch.distributed", "pyhook._meeting.join"])


def run(kind, method, env, seconds, pipe):
    """One rank. "P" is plain torch, "G" is as Go ranks come, "Q" the same with "?"."""
    os.environ.update(env)
    try:
        if kind == "P":
            options = {"timeout": datetime.timedelta(seconds=40)}
            if method != "env://":
                options.update(
                    init_method=method, rank=int(env["RANK"]), world_size=int(env["WORLD_SIZE"])
                )
            dist.init_process_group("gloo", **options)
        else:
            method = method + "?" if kind == "Q" else method
            join.init_process_group("gloo", method, -1, -1, 40, None, seconds)
        again = True
        while again:
            tensor = torch.tensor([2.0 ** dist.get_rank()])
            dist.all_reduce(tensor, group=dist.new_group())  # its keys, too, are torch's
            dist.barrier()
            pipe.send(tensor.item())
            again = pipe.recv()
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
    os._exit(0)


class Rank:
    def __init__(self, kind, rank, size, method="env://", env=None, seconds=30.0):
        env = {
            "GLOO_SOCKET_IFNAME": "lo", "USE_LIBUV": "0", "OMP_NUM_THREADS": "1",
            "RANK": str(rank), "WORLD_SIZE": str(size), **(env or {}),
        }  # fmt: skip
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=run, args=(kind, method, env, seconds, theirs), daemon=True
        )
        self.process.start()
        theirs.close()

    def hear(self):
        assert self.pipe.poll(60)
        return self.pipe.recv()

    def end(self):
        self.process.kill()
        self.process.join(20)


def job(kinds, method="env://", env=None):
    """Assert that the ranks meet and reduce rightly."""
    ranks = [Rank(kind, i, len(kinds), method, env) for i, kind in enumerate(kinds)]
    assert [rank.hear() for rank in ranks] == [2.0 ** len(kinds) - 1] * len(kinds)
    for rank in ranks:
        rank.end()


def master(at):
    host, _, port = at.rpartition("/")[2].partition(":")
    return {"MASTER_ADDR": host, "MASTER_PORT": port}


@pytest.mark.parametrize("kinds", ["GP", "PG", "GPG", "PGG", "QP", "PQ", "GQ"])
def test_they_meet_whoever_is_rank_0(address, kinds):  # noqa: F811
    job(kinds, env=master(address))


@pytest.mark.parametrize(("kinds", "late"), [("GP", 0), ("GP", 1), ("PG", 0)])
def test_they_meet_by_tcp_and_whoever_is_late(address, kinds, late):  # noqa: F811
    first = Rank(kinds[1 - late], 1 - late, 2, address)
    time.sleep(1)
    second = Rank(kinds[late], late, 2, address)
    assert [first.hear(), second.hear()] == [3.0, 3.0]
    first.end()
    second.end()


def test_they_meet_at_a_file_where_torchs_protocol_is_asked_for(tmp_path):
    job("PQ", f"file://{tmp_path / 'store'}")


def test_the_missing_are_named_as_far_as_they_are_known(address):  # noqa: F811
    env = master(address)
    ranks = [Rank("G", i, 4, "env://", env, 3) for i in (0, 2)]
    plain = Rank("P", 3, 4, "env://", env)
    for rank in ranks:
        text = rank.hear()
        assert "timed out waiting for ranks [1, 3], of which 1 came by torch's own" in text
        rank.end()
    plain.end()


def test_what_plain_ranks_cannot_say_is_in_the_hint(address):  # noqa: F811
    """Rank 2 does not come: plain rank 0 waits, and rank 1 is of no use to anybody."""
    plain = Rank("P", 0, 3, "env://", master(address))
    ours = Rank("G", 1, 3, "env://", master(address), 3)
    text = ours.hear()
    assert "rank 1 of 3 could not join at 127.0.0.1:" in text
    assert "met by torch's own protocol" in text
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in text
    plain.end()
    ours.end()


def test_strangers_do_a_job_that_has_met_no_harm(address):  # noqa: F811
    env = master(address)
    ranks = [Rank("G", i, 2, "env://", env) for i in range(2)]
    assert [rank.hear() for rank in ranks] == [3.0, 3.0]
    strangers = [Rank("P", 1, 2, "env://", env), Rank("G", 1, 2, "env://", env, 3)]
    assert "without an answer of rank 0" in strangers[1].hear()
    for rank in ranks:
        rank.pipe.send(True)
    assert [rank.hear() for rank in ranks] == [3.0, 3.0]
    for rank in ranks + strangers:
        rank.end()


def elastic(port, restart=0, nodes=1):
    return {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_WORLD_SIZE": str(nodes),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": str(restart),
        "TORCHELASTIC_RUN_ID": "none",
    }  # fmt: skip


@pytest.mark.parametrize("kinds", ["GP", "PG", "GGP"])
def test_they_meet_at_torchruns_store(agent, kinds):  # noqa: F811
    job(kinds, env=elastic(agent.port))


@pytest.mark.skipif(
    torch_version() >= (2, 6), reason="plain ranks meet the dead there: pytorch#167288"
)
def test_they_meet_again_at_torchruns_store_after_a_restart(agent):  # noqa: F811
    job("GP", env=elastic(agent.port))
    job("GP", env=elastic(agent.port, restart=1))


def static_rendezvous(port):
    """The store that torchrun keeps at the port without a rendezvous backend."""
    handler = StaticTCPRendezvous("127.0.0.1", port, 0, 1, "none", 10)
    found = handler.next_rendezvous()
    store = found[0] if isinstance(found, tuple) else found.store
    spec = WorkerSpec(role="trainer", local_world_size=2, rdzv_handler=handler, entrypoint="true")
    elastic_agent = LocalElasticAgent.__new__(LocalElasticAgent)
    elastic_agent._assign_worker_ranks(store, 0, 1, spec)
    return handler


@pytest.mark.parametrize("kinds", ["GP", "PG", "GG"])
def test_they_meet_at_the_store_of_a_static_rendezvous(kinds, port):
    handler = static_rendezvous(port)
    job(kinds, env=elastic(port))
    del handler


def test_the_agents_of_a_static_rendezvous_are_no_plain_ranks(monkeypatch, port):
    handler = static_rendezvous(port)
    for name, value in elastic(port).items():
        monkeypatch.setenv(name, value)
    for _ in range(2):  # a restart
        found, failed = attempt("env://", [(0, 0), (1, 0)])
        assert not failed
        assert len(set(found.values())) == 1
    with Meeting("env://", 0, 1, 5) as meeting:
        meeting.store()
        assert meeting.plain_ranks() == 0
        assert not meeting.plain
    del handler
