"""Results of functional collectives: torch 2's AsyncCollectiveTensor, as stock DDP takes it."""

import copy
import importlib.util

import form_hooks
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from pyhook import RankError, testing

HERE = importlib.util.find_spec("torch.distributed._functional_collectives") is not None


@pytest.mark.parametrize("hook", ["functional_sum", "functional_in_a_callback", "functional_view"])
def test_the_mean_is_taken_from_a_result_that_is_on_its_way(gradients, hook):
    by_rank = [gradients, [g * 3 + 1 for g in gradients]]
    if not HERE:
        with pytest.raises(RankError, match="_functional_collectives"):
            testing.run_ranks(f"form_hooks:{hook}", by_rank)
        return
    results = testing.run_ranks(f"form_hooks:{hook}", by_rank, steps=2)
    flat = [torch.cat([g.reshape(-1) for g in rank]) / 2 for rank in by_rank]
    for result in (r for steps in results for r in steps):
        assert torch.equal(result, flat[0] + flat[1])
        assert type(result) is torch.Tensor


def test_the_bits_are_those_of_stock_ddp(group):
    if not HERE:
        with pytest.raises(ImportError):
            form_hooks.functional_sum(None, testing.bucket([torch.ones(2)]))
        return
    torch.manual_seed(3)
    model = torch.nn.Linear(7, 5)
    data = torch.randn(4, 7)
    plain = copy.deepcopy(model)
    plain(data).square().sum().backward()
    gradients = [p.grad for p in reversed(list(plain.parameters()))]

    ddp = DistributedDataParallel(model)
    ddp.register_comm_hook(None, form_hooks.functional_sum)
    ddp(data).square().sum().backward()
    result = testing.run(form_hooks.functional_sum, None, testing.bucket(gradients))
    stock = torch.cat([p.grad.reshape(-1) for p in reversed(list(model.parameters()))])
    assert torch.equal(result, stock)
