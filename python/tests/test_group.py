import datetime
import multiprocessing

import pytest
import torch
import torch.distributed as dist

from pyhook import GroupError, testing
from pyhook._meeting import dtype_probe, join, torch_build
from pyhook._runtime.environment import environment


def refused(code, *arguments, **options):
    with pytest.raises(GroupError) as caught:
        join.init_process_group(*arguments, **options)
    assert caught.value.code == code
    assert not dist.is_initialized() or code == "already_initialized"
    return str(caught.value)


def test_the_env_rendezvous_works_whatever_libuv_does(monkeypatch, port):
    for name, value in {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("USE_LIBUV", "1" if torch_build.libuv_works() else "unset me")
    group = join.init_process_group("gloo", "env://", -1, -1, 20)
    try:
        assert group is dist.group.WORLD
        assert join.describe_group(group) == {"rank": 0, "size": 1, "backend": "gloo"}
    finally:
        join.destroy()
        join.destroy()  # twice is fine


def test_one_rank_needs_no_rendezvous():
    join.init_process_group("", None, 0, 1, 20)
    assert "already" in refused("already_initialized", "gloo", None, 0, 1, 20)
    join.destroy()


def test_a_store_may_be_given():
    group = join.init_process_group("gloo", None, 0, 1, 0, store=dist.HashStore())
    assert group.size() == 1
    join.destroy()


def test_errors_are_typed(monkeypatch, port):
    assert "gloo" in refused("no_backend", "nosuch", None, 0, 1, 5)
    missing = next(name for name, there in torch_build.backends().items() if not there)
    assert missing in refused("no_backend", f"cpu:gloo,cuda:{missing}", None, 0, 1, 5)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert "RANK" in refused("rendezvous", "gloo", "env://", -1, -1, 5)
    address = f"tcp://127.0.0.1:{port}"
    assert "rank 0 of 2" in refused("timeout", "gloo", address, 0, 2, 1)
    with pytest.raises(GroupError) as caught:
        join.describe_group()
    assert caught.value.code == "not_initialized"


def test_a_group_that_only_looks_like_one_is_described():
    class Duck:
        def rank(self):
            return 2

        def size(self):
            return 3

    assert join.describe_group(Duck()) == {"rank": 2, "size": 3, "backend": "Duck"}


def test_the_probe_agrees_with_what_really_happens(group):
    found = dtype_probe.probe_allreduce_dtypes(group)
    assert found["float32"] is None
    assert "Invalid scalar type" in found["int16"]
    for name, error in found.items():
        tensor = torch.zeros(3).to(getattr(torch, name))
        try:
            dist.all_reduce(tensor)
        except RuntimeError:
            assert error is not None, name
        else:
            assert error is None, name


def probe(rank, path, pipe):
    if rank == 1:  # a rank whose build can do less

        def alone(name, group, original=dtype_probe._try_alone):
            return "not here" if name == "int64" else original(name, group)

        dtype_probe._try_alone = alone
    with testing._loopback():
        store = dist.FileStore(path, 2)
        group = join.init_process_group("gloo", None, rank, 2, 20, store=store)
    found = dtype_probe.probe_allreduce_dtypes(
        group, ["int16", "int64", "float32", "no_such_dtype"]
    )
    total = torch.ones(1)
    dist.all_reduce(total)  # the ranks are still in step
    pipe.send((found, total.item()))
    join.destroy()


def test_the_probe_keeps_ranks_in_step_and_gives_all_the_same(tmp_path):
    context = multiprocessing.get_context("forkserver")  # each rank has torch imported
    context.set_forkserver_preload(["torch.distributed", "pyhook._meeting.join"])
    pipes, processes = [], []
    for rank in range(2):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=probe, args=(rank, str(tmp_path / "store"), there))
        process.start()
        pipes.append(here)
        processes.append(process)
    answers = []
    for pipe in pipes:
        assert pipe.poll(40)
        answers.append(pipe.recv())
    for process in processes:
        process.join(20)
        assert process.exitcode == 0
    for found, total in answers:
        assert total == 2
        assert list(found) == ["int16", "int64", "float32"]
        assert found["float32"] is None
        assert found["int16"] is not None
    assert [found["int64"] for found, _ in answers] == [
        "another rank cannot all-reduce this dtype", "not here",
    ]  # fmt: skip


def test_process_group_nests_and_goes_away():
    with testing.process_group() as outer:
        with testing.process_group() as inner:
            assert inner is outer
        assert dist.is_initialized()
    assert not dist.is_initialized()


def test_the_environment_is_tried_and_not_guessed():
    found = environment()
    assert found["torch"] == torch.__version__
    assert found["backends"]["gloo"] is True
    assert found["distributed_available"] is True
    assert isinstance(found["torchrun_broken"], bool)
    try:
        dist.TCPStore(
            "127.0.0.1", 0, 1, True, timeout=datetime.timedelta(seconds=5), use_libuv=True
        )
    except (TypeError, RuntimeError):
        assert found["libuv_works"] is False
    else:
        assert found["libuv_works"] is True
