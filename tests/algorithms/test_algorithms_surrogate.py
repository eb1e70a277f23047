"""How a policy's ratio is bounded, by hand: the dual clip, CISPO's weights, GSPO's ratio of a completion."""

from __future__ import annotations

import math

import pytest
import torch
from algorithms_forest import off_trained, on_trained

from tropism.algorithms.grpo import GRPO
from tropism.algorithms.ppo import PPO
from tropism.algorithms.rloo import RLOO
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.maths import cispo, clipped
from tropism.tensors.tree import Tree
from tropism.train.loop import reads


@pytest.mark.parametrize(
    ("advantage", "rho", "loss", "gradient"),
    [
        (-2.0, 5.0, 6.0, 0.0),  # 10 without the bound of 3 times 2
        (-2.0, 2.5, 5.0, 5.0),  # below the bound: PPO's loss, and its gradient -A rho
        (-2.0, 0.5, 1.6, 0.0),  # below 1 - .2: clipped as ever
        (2.0, 5.0, -2.4, 0.0),  # a good one is bounded by the clip alone
        (2.0, 0.25, -0.5, -0.5),
        (0.0, 9.0, 0.0, 0.0),
    ],
)
def test_the_dual_clip(advantage: float, rho: float, loss: float, gradient: float):
    change = torch.tensor(math.log(rho), dtype=torch.float64, requires_grad=True)
    found, cut = clipped(change, torch.tensor(advantage, dtype=torch.float64), 0.2, 0.2, dual=3.0)
    found.backward()
    assert (found.item(), change.grad) == (pytest.approx(loss), pytest.approx(gradient))
    assert bool(cut) == (gradient == 0 and advantage != 0)


@pytest.mark.parametrize("rho", [0.3, 1.0, 1.19, 1.21, 4.0, 1e12])
@pytest.mark.parametrize("advantage", [-1.5, 0.5])
def test_the_loss_of_a_bad_token_has_a_bound_only_with_a_dual_clip(advantage: float, rho: float):
    change, a = torch.tensor([math.log(rho)]), torch.tensor([advantage])
    plain, bounded = (float(clipped(change, a, 0.2, 0.2, dual)[0]) for dual in (None, 3.0))
    assert bounded == (min(plain, 4.5) if advantage < 0 else plain)
    assert advantage > 0 or rho < 4 or plain > 4.5


@pytest.mark.parametrize(
    ("advantage", "rho", "weight"), [(1.0, 1.3, 1.3), (1.0, 9.0, 1.5), (-1.0, 9.0, 1.5), (-2.0, 0.01, 0.01)]
)
def test_cispo_bounds_the_weight_and_keeps_the_gradient(advantage: float, rho: float, weight: float):
    """d loss / d log pi = -A min(rho, 1.5): never 0, where PPO's is for a good token beyond the clip."""
    logprob = torch.tensor(-0.7, requires_grad=True)
    loss, bounded = cispo(logprob + 0.7 + math.log(rho), logprob, torch.tensor(advantage), 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(advantage * weight * 0.7)
    assert logprob.grad == pytest.approx(-advantage * weight)
    assert bool(bounded) == (rho > 1.5)


def group(*rewards: float) -> Batch:
    """Answers of 1, 2, 3 … tokens of log-probability -1 under the old policy and the reference."""
    lengths = range(1, len(rewards) + 1)
    words, kept = tuple((5,) * n for n in lengths), tuple((True,) * n for n in lengths)
    batch = collate([Tree("g", (1,), words, kept, (True,) * len(words), tuple((-1.0,) * n for n in lengths), rewards)])
    return batch.replace(ref_logprobs_BT=batch.old_logprobs_BT)


def moved(batch: Batch, *changes: list[float]) -> torch.Tensor:
    return (batch.need("old_logprobs_BT") + on_trained(batch, list(changes))).requires_grad_()


GSPO = GRPO(kl=0.0, ratio="completion", weight="completion", clip=0.2, clip_high=0.35)


def test_gspo_by_hand():
    """Rewards 0 and 1: advantages ∓½. The second's tokens changed by .1 and .5: exp(.3) = 1.35 for both, inside the clip,
    though the second token alone is not. Each token has half of the completion's gradient."""
    batch = GSPO.credit(group(0.0, 1.0))
    now = moved(batch, [0.0], [0.1, 0.5])
    loss, metrics = GSPO.loss(batch, Prediction(now, now.detach()))
    loss.total.backward()
    assert (loss.total.item(), loss.count.item()) == (pytest.approx(0.5 - 0.5 * math.exp(0.3)), 2)
    assert now.grad is not None
    half = pytest.approx(-0.5 * math.exp(0.3) / 2)
    assert off_trained(now.grad, batch) == [[pytest.approx(0.5)], [half, half]]
    assert metrics["clip_fraction"].value == 0


def test_gspo_clips_a_completion_whole():
    """By .2 and .5 it is exp(.35) = 1.42, above 1.35: no token of it has a gradient."""
    batch = GSPO.credit(group(0.0, 1.0))
    now = moved(batch, [0.0], [0.2, 0.5])
    loss, metrics = GSPO.loss(batch, Prediction(now, now.detach()))
    loss.total.backward()
    assert loss.total.item() == pytest.approx(0.5 - 0.5 * 1.35)
    assert now.grad is not None
    assert off_trained(now.grad, batch) == [[pytest.approx(0.5)], [0, 0]]
    assert metrics["clip_fraction"].value == pytest.approx(2 / 3)  # tokens


def test_the_ratio_of_a_completion_does_not_grow_with_its_length():
    """Answers of 1, 2 and 3 tokens that all changed by .1 a token: 1.105 each. RLOO's are exp(.1), (.2) and (.3)."""
    batch = GSPO.credit(group(0.0, 0.0, 1.0))
    now = moved(batch, [0.1], [0.1] * 2, [0.1] * 3)
    loss, _ = GSPO.loss(batch, Prediction(now, now))
    assert loss.total.item() == pytest.approx((1 / 3 + 1 / 3 - 2 / 3) * math.exp(0.1), abs=1e-6)
    batch = RLOO(kl=0.0, clip=0.9).credit(group(0.0, 0.0, 1.0))
    loss, _ = RLOO(kl=0.0, clip=0.9).loss(batch, Prediction(now, now))
    assert loss.total.item() == pytest.approx(0.5 * math.exp(0.1) + 0.5 * math.exp(0.2) - math.exp(0.3))


@pytest.mark.parametrize("algorithm", [GRPO, PPO, RLOO])
def test_only_a_bonus_asks_for_the_gradient_of_the_entropy(algorithm):
    assert reads(algorithm()) == algorithm.predicts
    assert reads(algorithm(entropy=0.1)) == (*algorithm.predicts, "entropy_bonus_BT")


@pytest.mark.parametrize(
    ("algorithm", "share"),
    [
        (GRPO(kl=0.0, entropy=0.5), 3.0),  # the sum over tokens: their mean, as its count is 3 tokens
        (GRPO(kl=0.0, entropy=0.5, weight="completion"), 2.0),  # completions' means
        (RLOO(kl=0.0, entropy=0.5), 3.0),  # completions' sums
    ],
    ids=["token", "completion", "rloo"],
)
def test_a_bonus_is_weighed_as_the_loss_is(algorithm, share: float):
    """Every token has .8 nats."""
    batch = algorithm.credit(group(0.0, 1.0))
    now, nats = batch.need("old_logprobs_BT"), on_trained(batch, [[0.8], [0.8, 0.8]])
    without = type(algorithm)(**{**vars(algorithm), "entropy": 0.0}).loss(batch, Prediction(now, nats))[0]
    loss, metrics = algorithm.loss(batch, Prediction(now, nats, entropy_bonus_BT=nats))
    assert loss.total.item() - without.total.item() == pytest.approx(-0.5 * 0.8 * share)
    assert metrics["entropy"].value == pytest.approx(0.8)
