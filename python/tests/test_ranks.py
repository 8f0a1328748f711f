"""Real processes, joined by gloo."""

import pytest
import sample_hooks
import torch

from pyhook import RankError, testing


@pytest.fixture
def by_rank():
    torch.manual_seed(2)
    return [[torch.randn(12, 8), torch.randn(8), torch.randn(4, 3)] for _ in range(2)]


def test_allreduce_gives_every_rank_the_mean(by_rank):
    results = testing.run_ranks("allreduce", by_rank, steps=3, buckets=2)
    assert [len(steps) for steps in results] == [3, 3]
    testing.assert_mean(results, by_rank)
    with pytest.raises(AssertionError, match="rank 0, step 0"):
        testing.assert_mean(results, [by_rank[0], by_rank[0]])


def test_a_function_in_the_old_style(by_rank):
    testing.assert_mean(testing.run_ranks(sample_hooks.mean_old_style, by_rank), by_rank)


def test_fp16_gives_nearly_the_mean(by_rank):
    try:
        results = testing.run_ranks("fp16", by_rank)
    except RankError as error:
        # Debian's torch 2.14: gloo there takes no fp16 at all.
        assert "Invalid scalar type" in error.traceback  # noqa: PT017
        return
    testing.assert_mean(results, by_rank, rtol=2e-3, atol=2e-3)


def test_power_sgd_keeps_its_state_over_steps_and_ranks_agree(by_rank):
    results = testing.run_ranks(
        "powersgd",
        by_rank,
        "powersgd",
        state_kwargs={"matrix_approximation_rank": 2, "start_powerSGD_iter": 2},
        steps=5,
        buckets=2,
    )
    testing.assert_mean([steps[:2] for steps in results], by_rank)
    for first, second in zip(*results):
        assert torch.equal(first, second)
    mean = (torch.cat([g.reshape(-1) for g in by_rank[0]]) + torch.cat(
        [g.reshape(-1) for g in by_rank[1]]
    )) / 2  # fmt: skip
    assert not torch.allclose(results[0][3], mean)


def test_a_state_class_is_made_on_each_rank_and_buckets_are_numbered(by_rank):
    results = testing.run_ranks(
        sample_hooks.scaled_by_steps,
        [by_rank[0]],
        sample_hooks.CountingState,
        state_kwargs={"factor": 2.0},
        steps=2,
        buckets=3,
    )
    flat = torch.cat([g.reshape(-1) for g in by_rank[0]])
    assert torch.allclose(results[0][0], flat * 2)
    assert torch.allclose(results[0][1], flat * 4)


def test_the_rank_that_fails_is_named_with_its_traceback(by_rank):
    with pytest.raises(RankError) as caught:
        testing.run_ranks(sample_hooks.rank_one_raises, by_rank)
    error = caught.value
    assert (error.code, error.rank) == ("failed", 1)
    assert "KeyError: 'only rank one'" in error.traceback
    assert "in rank_one_raises" in str(error)


def test_an_error_in_a_callback_shows_its_origin(by_rank):
    with pytest.raises(RankError, match="ValueError: from the callback"):
        testing.run_ranks(sample_hooks.raises_in_then, by_rank[:1])


def test_a_process_that_dies_and_one_that_fails_differ(by_rank):
    with pytest.raises(RankError, match="exit code 3") as caught:
        testing.run_ranks(sample_hooks.rank_zero_exits, by_rank)
    assert (caught.value.code, caught.value.rank) == ("died", 0)


def test_a_timeout_shows_where_the_rank_was(by_rank):
    with pytest.raises(RankError, match="rank_one_sleeps") as caught:
        testing.run_ranks(sample_hooks.rank_one_sleeps, by_rank, timeout=3)
    assert caught.value.code == "timeout"


def test_what_cannot_be_sent_to_a_process_is_refused_before(by_rank):
    with pytest.raises(ValueError, match="Give a spec"):
        testing.run_ranks(lambda state, bucket: None, by_rank)
    with pytest.raises(ValueError, match="rank 1 has gradients of shapes"):
        testing.run_ranks("noop", [by_rank[0], by_rank[1][:1]])
    with pytest.raises(ValueError, match="4 buckets"):
        testing.run_ranks("noop", by_rank, buckets=4)
