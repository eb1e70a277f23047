"""RLOO against the paper's leave-one-out estimator, written out completion by completion, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from algorithms_forest import bonus, compare, forest, off_trained, on_trained

from tropism.algorithms.rloo import RLOO
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree


def equation_of(rloo: RLOO, told: dict[str, float]):
    def equation(groups, new, value):
        total = completions = clipped = 0.0
        for group, new_K in zip(groups, new):
            rewards = [
                None if a.reward is None else a.reward - rloo.kl * sum(o - r for o, r in zip(a.old, a.ref))
                for a in group
            ]
            for k, (a, reward) in enumerate(zip(group, rewards)):
                others = [r for j, r in enumerate(rewards) if j != k and r is not None]
                if reward is None or not others or not a.old:
                    continue
                advantage = reward - sum(others) / len(others)
                rho = torch.stack([n - o for n, o in zip(new_K[k], a.old)]).sum().exp()
                inside = min(max(rho.item(), 1 - rloo.clip), 1 + rloo.clip)
                loss = max(-advantage * rho, torch.tensor(-advantage * inside, dtype=torch.float64))
                bounded = advantage < 0 and loss.item() > (rloo.dual_clip or math.inf) * -advantage
                total = total + (-advantage * rloo.dual_clip if bounded else loss)
                total = total - rloo.entropy * sum(bonus(n) for n in new_K[k])
                clipped += bounded or -advantage * inside > -advantage * rho.item()
                completions += 1
        told["clip_fraction"] = clipped / completions
        return total, completions

    return equation


@pytest.mark.parametrize(
    "rloo", [RLOO(), RLOO(kl=0.9, clip=0.6), RLOO(kl=0.0), RLOO(dual_clip=1.3, entropy=0.7)], ids=repr
)
@pytest.mark.parametrize("seed", range(4, 7))
def test_loss_and_gradient_equal_the_equations(rloo: RLOO, seed: int):
    told: dict[str, float] = {}
    metrics = compare(rloo, forest(seed), equation_of(rloo, told))
    assert metrics["clip_fraction"] == pytest.approx(told["clip_fraction"])
    assert 0 < told["clip_fraction"] < 1


def group(*rewards: float | None, ref: float = -1.0) -> Batch:
    """Answers of 1, 2, 3 … tokens of log-probability -1 each."""
    lengths = range(1, len(rewards) + 1)
    words, kept = tuple((5,) * n for n in lengths), tuple((True,) * n for n in lengths)
    batch = collate([Tree("g", (1,), words, kept, (True,) * len(words), tuple((-1.0,) * n for n in lengths), rewards)])
    return batch.replace(ref_logprobs_BT=on_trained(batch, [[ref] * n for n in lengths]).float())


def credit(rloo: RLOO, batch: Batch) -> list[list[float]]:
    after = rloo.credit(batch)
    return off_trained(after.need("advantages_BT"), after)


def test_advantages_by_hand():
    """Rewards 1, 2 and 6: the others' means are 4, 3.5 and 1.5. One without a score is nobody's other."""
    expected = [[pytest.approx(1 - 4)], [pytest.approx(2 - 3.5)] * 2, [pytest.approx(6 - 1.5)] * 3]
    assert credit(RLOO(kl=0.0), group(1.0, 2.0, 6.0)) == expected
    assert credit(RLOO(kl=0.0), group(1.0, 2.0, 6.0, None)) == [*expected, []]


def test_kl_of_the_whole_completion_is_in_its_reward():
    """The reference likes each token less by .5 nats: 1 and 2 tokens cost .5 and 1 nats, times kl 2."""
    one, two = 3 - 2 * 0.5, 4 - 2 * 1.0
    assert credit(RLOO(kl=2.0), group(3.0, 4.0, ref=-1.5)) == [
        [pytest.approx(one - two)],
        [pytest.approx(two - one)] * 2,
    ]


def test_a_lone_completion_leaves_the_loss():
    for batch in (group(5.0), group(None, 5.0), group(None, None)):
        after = RLOO().credit(batch)
        assert not after.loss_mask_BT.any()
        old = batch.need("old_logprobs_BT").clone().requires_grad_()
        loss, _ = RLOO().loss(after, Prediction(old, old.detach()))
        loss.total.backward()
        assert (loss.total.item(), loss.count.item()) == (0, 0)
        assert old.grad is None or not old.grad.any()


def test_on_fresh_samples_the_gradient_is_that_of_the_log_likelihood():
    """Every token of a completion gets its whole advantage: the completion is one action."""
    batch = RLOO(kl=0.0).credit(group(1.0, 2.0, 6.0))
    old = batch.need("old_logprobs_BT").clone().requires_grad_()
    RLOO(kl=0.0).loss(batch, Prediction(old, old.detach()))[0].total.backward()
    assert old.grad is not None
    assert off_trained(old.grad, batch) == [[pytest.approx(3)], [pytest.approx(1.5)] * 2, [pytest.approx(-4.5)] * 3]


@pytest.mark.parametrize("by_token", [(0.1, 0.1), (0.3, -0.1)], ids=str)
def test_the_ratio_is_that_of_the_completion(by_token: tuple[float, float]):
    """Two tokens that changed by .2 nats together are inside the clip of .25, whatever each did."""
    batch = RLOO(kl=0.0, clip=0.25).credit(group(0.0, 1.0))
    new = batch.need("old_logprobs_BT") + on_trained(batch, [[0.0], list(by_token)])
    loss, metrics = RLOO(kl=0.0, clip=0.25).loss(batch, Prediction(new, new))
    assert loss.total.item() == pytest.approx(1 - math.exp(0.2))
    assert metrics["clip_fraction"].value == 0
    loss, metrics = RLOO(kl=0.0, clip=0.2).loss(batch, Prediction(new, new))
    assert loss.total.item() == pytest.approx(1 - 1.2)
    assert metrics["clip_fraction"].value == 0.5
