"""Shaping by hand, term by term, and what no term touches."""

from __future__ import annotations

import dataclasses
import statistics

import pytest
import torch

from tropism.algorithms.apa import APA
from tropism.algorithms.grpo import GRPO
from tropism.algorithms.ppo import PPO
from tropism.algorithms.rloo import RLOO
from tropism.tensors.batch import Batch
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree
from tropism.train.shaping import Moments, Shaping

PLAIN = Shaping(missing_stop=0.0)


def batch(
    *rewards: float | None, ended: tuple[bool, ...] = (), lengths: tuple[int, ...] = (), forced: int = 0
) -> Batch:
    """One group; of each completion the first `forced` tokens are not the policy's."""
    k = len(rewards)
    lengths = lengths or (1,) * k
    words = tuple((5,) * n for n in lengths)
    kept = tuple((False,) * forced + (True,) * (n - forced) for n in lengths)
    return collate(
        [Tree("g", (1, 2, 3), words, kept, ended or (True,) * k, tuple((-1.0,) * n for n in lengths), rewards)]
    )


def shaped(shaping: Shaping, found: Batch) -> list[float]:
    return shaping(found, seen(found)).need("reward_N").tolist()


def seen(*batches: Batch) -> Moments:
    """The moments of all their scores."""
    found = Moments()
    for b in batches:
        found = found.add(b.need("reward_N")[b.need("scored_N")].tolist())
    return found


def test_scores_are_left_alone_unless_asked():
    assert shaped(PLAIN, batch(3.0, -7.0, 0.0)) == [3, -7, 0]


def test_an_answer_that_never_stops_pays():
    assert shaped(Shaping(), batch(3.0, 3.0, ended=(True, False))) == [3, 2]  # the default is 1
    assert shaped(Shaping(missing_stop=2.5), batch(3.0, 3.0, ended=(False, True))) == [0.5, 3]


def test_tokens_beyond_the_free_ones_pay():
    shaping = Shaping(missing_stop=0.0, length_cost=0.25, length_free=2)
    assert shaped(shaping, batch(1.0, 1.0, 1.0, 1.0, lengths=(1, 2, 3, 6))) == [1, 1, 0.75, 0]


def test_tokens_that_were_forced_on_the_policy_cost_nothing():
    shaping = Shaping(missing_stop=0.0, length_cost=0.25, length_free=2)
    assert shaped(shaping, batch(1.0, 1.0, lengths=(6, 7), forced=4)) == [1, 0.75]


def test_clip_comes_after_scale_and_before_the_penalties():
    found = batch(8.0, -8.0, 1.0, ended=(False, True, True), lengths=(1, 1, 3))
    assert shaped(Shaping(clip=2.0, length_cost=1.0, length_free=1), found) == [2 - 1, -2, 1 - 2]
    scaled = batch(4.0, -4.0, ended=(True, False))  # standard deviation 4
    assert shaped(Shaping(scale=True, clip=0.75), scaled) == [0.75, -0.75 - 1]


def test_scale_is_that_of_all_scores_so_far():
    """[1, 3] has standard deviation 1; [1, 3, 5, 7] has √5. The mean stays."""
    shaping = Shaping(scale=True, missing_stop=0.0)
    first, second, third = batch(1.0, 3.0, None), batch(5.0, None, 7.0), batch(None, None)
    assert shaping(first, seen(first)).need("reward_N").tolist() == [1, 3, 0]
    both = seen(first, second)
    assert shaping(second, both).need("reward_N").tolist() == pytest.approx([5 / 5**0.5, 0, 7 / 5**0.5])
    assert (both.count, both.mean, both.std) == (4, 4.0, pytest.approx(5**0.5))
    assert shaping(third, both).need("reward_N").tolist() == [0, 0]
    assert both.add([None, None]) == both


def test_scale_waits_until_scores_differ():
    assert shaped(Shaping(scale=True, missing_stop=0.0), batch(5.0)) == [5]
    assert shaped(Shaping(scale=True, missing_stop=0.0), batch(5.0, 5.0)) == [5, 5]


def test_moments_of_pieces_are_those_of_the_whole():
    torch.manual_seed(0)
    every = torch.randn(100) * 3 + 1000  # a mean that a sum of squares would drown in
    seen = Moments()
    for piece in (every[:1], every[1:1], every[1:40], every[40:]):
        seen = seen.add(piece.tolist())
    assert seen.count == 100
    assert seen.mean == pytest.approx(statistics.fmean(every.tolist()))
    assert seen.std == pytest.approx(statistics.pstdev(every.tolist()))
    assert Moments(**dataclasses.asdict(seen)) == seen
    assert all(type(x) in (int, float) for x in dataclasses.astuple(seen))


HARSH = Shaping(scale=True, clip=1.0, missing_stop=3.0, length_cost=1.0)
ONLINE = [PPO(), APA(), RLOO(), GRPO(), GRPO(scale="std", drop_equal=False), GRPO(kl_in="loss")]


@pytest.mark.parametrize("algorithm", ONLINE, ids=repr)
def test_what_has_no_score_stays_out_of_every_method(algorithm):
    """Cut, long and unscored: no penalty makes it a reward, nothing is learned from it, and no other completion's
    credit knows of it."""

    def credit(*rewards: float | None) -> tuple[list[float], Batch]:
        k = len(rewards)
        found = batch(*rewards, ended=(True, True, True, False)[:k], lengths=(2, 1, 3, 9)[:k])
        found = HARSH(found, seen(found))
        zeros = torch.zeros(found.tokens_BT.shape)
        after = algorithm.credit(found.replace(ref_logprobs_BT=zeros - 0.9, values_BT=zeros + 0.1))
        kept = (found.completion_BT >= 0) & (found.completion_BT < 3)
        return after.need("advantages_BT")[kept].tolist(), after

    expected, _ = credit(1.0, 5.0, 2.0)
    found, after = credit(1.0, 5.0, 2.0, None)
    assert found == pytest.approx(expected)
    assert any(expected)
    assert after.need("reward_N")[3] == 0
    assert not after.need("scored_N")[3]
    last = after.completion_BT == 3
    assert last.any()
    assert not after.loss_mask_BT[last].any()
    assert not after.need("advantages_BT")[last].any()
