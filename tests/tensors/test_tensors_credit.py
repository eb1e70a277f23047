"""What the algorithms with rewards share, by hand: who is in a mean, what stands on which token."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tropism.tensors.batch import Batch
from tropism.tensors.collate import collate
from tropism.tensors.credit import by_critic, group_differs, group_mean, kl_N, ranked, scored_only, spread
from tropism.tensors.tree import Tree

TREES = [  # the second token of the third completion is forced
    Tree("a", (1, 1), ((2,), (3, 4), (5, 6, 7)), ((True,), (True, True), (True, False, True)), (True,) * 3),
    Tree("b", (1,), ((8, 9), (8,)), ((True, True), (True,)), (True, False)),
]
REWARDS = ((1.0, None, 4.0), (None, 2.5))


def filled(rewards=REWARDS) -> Batch:
    """Old log-probabilities -1, the reference's -1 - token/10, values token/100: a token is known by its numbers."""
    old = [tuple((-1.0,) * len(c) for c in t.completions) for t in TREES]
    batch = collate([dataclasses.replace(t, reward=r, logprobs=o) for t, r, o in zip(TREES, rewards, old)], 100)
    token = torch.where(batch.loss_mask_BT, batch.tokens_BT.double(), 1e6)  # rubbish beside the trained tokens
    return batch.replace(ref_logprobs_BT=-1 - token / 10, values_BT=token / 100)


def of_tokens(x_BT: Tensor, batch: Batch) -> dict[tuple[int, int], float]:
    """(completion, token) → number, where it is not 0."""
    places = x_BT.nonzero().tolist()
    return {(int(batch.completion_BT[b, t]), int(batch.tokens_BT[b, t])): float(x_BT[b, t]) for b, t in places}


def test_scored_only_leaves_out_the_tokens_of_the_unscored():
    before, after = filled(), scored_only(filled())
    assert set(of_tokens(after.loss_mask_BT, after)) == {(0, 2), (2, 5), (2, 7), (4, 8)}
    assert set(of_tokens(before.loss_mask_BT, before)) - set(of_tokens(after.loss_mask_BT, after)) == {
        (1, 3),
        (1, 4),
        (3, 8),
        (3, 9),
    }


def test_spread_puts_a_number_on_each_trained_token():
    batch = scored_only(filled())
    found = of_tokens(spread(torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0]), batch), batch)
    assert found == {(0, 2): 10, (2, 5): 30, (2, 7): 30, (4, 8): 50}


def test_kl_is_the_sum_over_trained_tokens():
    assert kl_N(filled()).tolist() == pytest.approx([0.2, 0.7, 1.2, 1.7, 0.8])
    assert kl_N(scored_only(filled())).tolist() == pytest.approx([0.2, 0, 1.2, 0, 0.8])


def test_group_mean_is_over_the_scored():
    batch = filled()
    mean_N, count_N = group_mean(torch.tensor([1.0, 99.0, 4.0, 99.0, 2.5]), batch)
    assert mean_N.tolist() == [2.5, 2.5, 2.5, 2.5, 2.5]
    assert count_N.tolist() == [2, 2, 2, 1, 1]
    mean_N, count_N = group_mean(torch.ones(5), filled(((None, None, None), (None, 1.0))))
    assert mean_N.tolist() == [0, 0, 0, 1, 1]
    assert count_N.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("k", range(1, 20))
@pytest.mark.parametrize("score", [0.1, 0.3, 0.7, 1.3, -2.9])
def test_the_mean_of_equal_scores_is_that_score(score: float, k: int):
    batch = collate([Tree("g", (1,), ((2,),) * k, ((True,),) * k, (True,) * k, reward=(score,) * k)])
    reward_N = batch.need("reward_N")
    assert group_mean(reward_N, batch)[0].tolist() == reward_N.tolist()
    assert not group_differs(reward_N, batch).any()
    assert not group_differs(reward_N.double() / 3, batch).any()


def test_group_differs_looks_at_the_scored():
    x = torch.tensor([1.0, 99.0, 1.0, 99.0, 2.5])
    assert not group_differs(x, filled()).any()
    assert group_differs(x, filled(((1.0, 1.0, 1.0), (None, None)))).tolist() == [True, False]
    assert group_differs(-x, filled(((None, 1.0, 1.0), (1.0, 1.0)))).all()


@pytest.mark.parametrize(
    ("rewards", "ranks"),
    [
        (((1.0, None, 4.0), (None, 2.5)), [2, 0, 1, 0, 1]),
        (((0.0, 0.0, -1.0), (3.0, 3.0)), [1, 1, 2, 1, 1]),  # ties share a rank, and the next one follows at once
        (((-1.0, -3.0, -2.0), (None, None)), [1, 3, 2, 0, 0]),
        (((None, -2.0, -1.0), (0.0, -1.0)), [0, 2, 1, 1, 2]),  # no score is not a score of 0
    ],
)
def test_ranks_by_hand(rewards, ranks: list[int]):
    assert ranked(filled(rewards)).need("rank_N").tolist() == ranks


def test_by_critic_by_hand():
    """gamma 1, lam 1: an advantage is all reward still to come, less the value; a return all reward still to come."""
    batch = scored_only(filled())
    advantages, returns = by_critic(batch, 0.5, 1.0, 1.0)
    expected = {(0, 2): 1 - 0.1, (2, 5): 4 - 0.25 - 0.35, (2, 7): 4 - 0.35, (4, 8): 2.5 - 0.4}
    assert of_tokens(returns, batch) == pytest.approx(expected)
    value = {(0, 2): 0.02, (2, 5): 0.05, (2, 7): 0.07, (4, 8): 0.08}
    assert of_tokens(advantages, batch) == pytest.approx({at: expected[at] - value[at] for at in expected})


def test_by_critic_bridges_a_forced_token():
    """lam ½, gamma .9: from token 5 it is one step to token 7, across the forced one."""
    batch = scored_only(filled())
    advantages, returns = by_critic(batch, 0.0, 0.9, 0.5)
    last = 4 - 0.07
    first = 0.9 * 0.07 - 0.05 + 0.45 * last
    found = of_tokens(advantages, batch)
    assert (found[2, 7], found[2, 5]) == pytest.approx((last, first))
    assert of_tokens(returns, batch)[2, 5] == pytest.approx(first + 0.05)
