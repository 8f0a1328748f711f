"""The Python half of a Go transport, with a Python stand-in for Go: a world of one."""

import datetime
import threading

import pytest
import torch
import torch.distributed as dist

from pyhook import GroupError, HookContractError, testing
from pyhook._transport import process_group
from pyhook._transport.store import PrivateStore


class Go:
    """What the Go side does for one rank. Works are finished on another thread."""

    def __init__(self):
        self.opened = []
        self.issued = []
        self.error = None
        self.held = threading.Event()
        self.held.set()

    def open(self, name, ranks, timeout):
        self.opened.append((ranks, timeout))
        return len(self.opened) - 1

    def issue(self, number, work, name, op, peer, tag, outputs, *tensors):
        if self.error == "refused":
            raise RuntimeError("no such thing")
        self.issued.append((number, name, op, peer, tag))
        out, into = tensors[:outputs], tensors[outputs:]
        for to, source in zip(out, into):
            to.copy_(source)

        def finish():
            self.held.wait(20)
            work._finish(self.error)

        threading.Thread(target=finish).start()


@pytest.fixture
def go():
    go = Go()
    process_group.install(go.open, go.issue, 0, 1, 60.0)
    yield go
    go.held.set()
    dist.destroy_process_group()
    process_group.uninstall()


def test_it_is_the_default_group(go):
    assert dist.get_backend() == "pyhook_go"
    assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
    assert go.opened == [([], 60.0)]


def test_it_can_be_installed_again(go):
    with pytest.raises(GroupError) as caught:
        process_group.install(go.open, go.issue, 0, 1, 60.0)
    assert caught.value.code == "already_initialized"
    dist.destroy_process_group()
    process_group.install(go.open, go.issue, 0, 1, 60.0)


def test_sub_groups_have_numbers_of_their_own(go):
    group = dist.new_group([0], timeout=datetime.timedelta(seconds=7))
    dist.all_reduce(torch.ones(1), group=group)
    assert go.opened[1] == ([0], 7.0)
    assert go.issued[-1][:2] == (1, "all_reduce")


def test_operations_go_by_name(go):
    for name in ("SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR"):
        dist.all_reduce(torch.ones(2), op=getattr(dist.ReduceOp, name))
        assert go.issued[-1][2] == name


def test_a_failure_is_raised_and_kept_in_the_future(go):
    go.error = "rank 1 hung up"
    with pytest.raises(GroupError, match="rank 1 hung up") as caught:
        dist.all_reduce(torch.ones(2))
    assert caught.value.code == "transport"
    work = dist.all_reduce(torch.ones(2), async_op=True)
    with pytest.raises(GroupError, match="hung up"):
        work.get_future().wait()
    with pytest.raises(GroupError, match="hung up"):
        work.get_future().then(lambda future: future).wait().value()
    assert not work.is_success()
    assert isinstance(work.exception(), GroupError)
    go.error = None


def test_a_refusal_is_raised_at_once(go):
    go.error = "refused"
    with pytest.raises(GroupError, match="no such thing"):
        dist.all_reduce(torch.ones(2), async_op=True)
    go.error = None


def test_wait_has_a_timeout(go):
    go.held.clear()
    work = dist.all_reduce(torch.ones(2), async_op=True)
    with pytest.raises(GroupError, match="not done") as caught:
        work.wait(datetime.timedelta(milliseconds=20))
    assert caught.value.code == "timeout"
    assert not work.is_completed()
    go.held.set()
    assert work.wait(datetime.timedelta(seconds=20))
    assert work.is_completed()


def test_what_cannot_be_moved_is_refused(go):
    group = dist.group.WORLD
    for call in (
        lambda: group.allreduce([torch.ones(2).to_sparse()]),
        lambda: group.recv_anysource([torch.ones(2)], 0),
        lambda: group._allgather_base(torch.ones(4, 4).t()[:, ::2], torch.ones(8)),
        lambda: group.alltoall_base(torch.tensor(1.0), torch.tensor(1.0)),
    ):
        with pytest.raises(GroupError):
            call()


def test_a_sparse_tensor_is_refused_with_a_way_out(go):
    with pytest.raises(GroupError, match=r"not torch\.sparse_coo") as caught:
        dist.group.WORLD.allreduce([torch.ones(2).to_sparse()])
    assert "AllReduceCommHook" in caught.value.hint


def test_a_conjugate_view_comes_back_as_its_values(go):
    x = torch.tensor([1 + 2j]).conj()
    y = torch.zeros(1, dtype=x.dtype)
    dist.group.WORLD.allgather([[y]], [x]).wait()  # dist.all_gather itself refuses one
    assert y.item() == 1 - 2j


def test_the_private_store_says_so():
    store = PrivateStore()
    store.set("a", "1")
    assert store.get("a") == b"1"
    assert store.add("n", 2) + store.add("n", 3) == 7
    assert store.num_keys() == 2
    assert store.delete_key("a")
    assert not store.delete_key("a")
    with pytest.raises(GroupError, match="alone"):
        store.wait(["a"])


def test_a_shared_store_is_the_groups_own(go):
    process_group.uninstall()
    dist.destroy_process_group()
    shared = dist.HashStore()
    process_group.install(go.open, go.issue, 0, 1, 60.0, shared)
    before = shared.num_keys()
    dist.distributed_c10d._get_default_store().set("a", "1")
    assert shared.num_keys() == before + 1


def test_a_hook_gets_nccls_forms_of_futures_here_too(go):
    def hook(state, bucket):
        flat = bucket.buffer()
        gathered = dist.all_gather([torch.empty_like(flat)], flat, async_op=True).get_future()
        return gathered.then(lambda f: f.value()[0].mean(0))

    bucket = testing.bucket([torch.tensor([1.0, 2.0])])
    assert testing.run(hook, None, bucket, nccl_futures=True).tolist() == [1, 2]
    with pytest.raises(HookContractError, match="1 elements"):
        testing.run(hook, None, bucket)
