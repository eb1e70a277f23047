"""V-MPO against the paper's weights, written out completion by completion; its eta against a dense grid."""

from __future__ import annotations

import math
import random

import pytest
import torch
from algorithms_forest import compare, filled, forest, off_trained

from tropism.algorithms.vmpo import VMPO, temperature
from tropism.tensors.batch import Prediction
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree


def dual(eta: float, advantages: list[float], epsilon: float) -> float:
    top = max(advantages)
    mean = sum(math.exp((a - top) / eta) for a in advantages) / len(advantages)
    return eta * epsilon + top + eta * math.log(mean)


def on_a_grid(advantages: list[float], epsilon: float) -> float:
    """The best eta of a grid of 1 in 1000."""
    return min((1e-3 * 1.001**i for i in range(14000)), key=lambda eta: dual(eta, advantages, epsilon))


def psi(advantages: list[float], eta: float) -> list[float]:
    worth = [math.exp((a - max(advantages)) / eta) for a in advantages]
    return [w / sum(worth) for w in worth]


def equation_of(vmpo: VMPO):
    def equation(groups, new, value):
        known = []
        for group, new_K in zip(groups, new):
            scored = [a.reward for a in group if a.reward is not None]
            known += [
                (a.reward - sum(scored) / len(scored), row) for a, row in zip(group, new_K) if a.reward is not None
            ]
        advantages = sorted(a for a, _ in known)
        n = len(advantages)
        median = (advantages[(n - 1) // 2] + advantages[n // 2]) / 2
        top = [(a, row) for a, row in known if a >= median]
        # the dual is flat at its minimum, so that a grid's best eta is near the best, not on it: refine by bisection
        low, high = 1e-6, 1e6
        for _ in range(200):
            eta = math.sqrt(low * high)
            weights = psi([a for a, _ in top], eta)
            away = sum(w * math.log(w * len(top)) for w in weights if w > 0)
            low, high = (eta, high) if away > vmpo.epsilon else (low, eta)
        total, tokens = 0.0, 0
        for weight, (_, row) in zip(psi([a for a, _ in top], eta), top):
            total = total - weight * len(top) * sum(row, torch.zeros(()))
            tokens += len(row)
        return total, tokens

    return equation


@pytest.mark.parametrize("vmpo", [VMPO(), VMPO(epsilon=0.5)], ids=repr)
@pytest.mark.parametrize("seed", range(4, 10))
def test_loss_and_gradient_equal_the_equations(vmpo: VMPO, seed: int):
    compare(vmpo, forest(seed), equation_of(vmpo))


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.7])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_eta_solves_the_dual(epsilon: float, scale: float):
    """The best of a dense grid, in the advantages' own units, and the weights are epsilon nats from uniform ones."""
    rng = random.Random(0)
    advantages = [rng.gauss(0, 1) for _ in range(20)]
    eta = temperature(torch.tensor(advantages, dtype=torch.float64) * scale, epsilon)
    assert eta / scale == pytest.approx(on_a_grid(advantages, epsilon), rel=2e-3)
    away = sum(w * math.log(w * 20) for w in psi(advantages, eta / scale))
    assert away == pytest.approx(epsilon, rel=1e-5)


def test_eta_where_the_weights_cannot_go_so_far():
    """Two of four are best: at most log 2 nats. The weights are those two's, and finite."""
    top = torch.tensor([1.0, 1.0, 0.0, 0.0])
    eta = temperature(top, 0.8)
    assert psi(top.tolist(), eta) == pytest.approx([0.5, 0.5, 0, 0])
    assert psi([2.0] * 3, temperature(torch.full((3,), 2.0), 0.1)) == pytest.approx([1 / 3] * 3)


def half(*rewards: float | None) -> tuple[list[list[float]], list[bool]]:
    """Weights of answers of one token, and which of them are in the loss."""
    n = len(rewards)
    batch = collate([Tree("g", (1,), ((5,),) * n, ((True,),) * n, (True,) * n, reward=rewards)])
    after = VMPO().credit(batch)
    kept = [bool(after.loss_mask_BT[batch.completion_BT == k].any()) for k in range(n)]
    return off_trained(after.need("advantages_BT"), batch), kept


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [
        ((1.0, 2.0), (False, True)),
        ((4.0, 1.0, 3.0, 2.0), (True, False, True, False)),
        ((4.0, 1.0, 3.0, 2.0, 0.0), (True, False, True, True, False)),  # the one in the middle is kept
        ((4.0, 2.0, 2.0, 1.0), (True, True, True, False)),  # so are those that tie with it
        ((4.0, None, 3.0, 2.0, 1.0), (True, False, True, False, False)),
        ((0.1,) * 7, (True,) * 7),
        ((5.0,), (True,)),
        ((None, None), (False, False)),
    ],
)
def test_the_better_half(rewards: tuple[float | None, ...], kept: tuple[bool, ...]):
    assert half(*rewards)[1] == list(kept)


def test_weights_by_hand():
    """Two kept answers, .4 apart: the weights p, 1 - p with p log 2p + (1-p) log 2(1-p) = .1, so p = .7198."""
    (first, _, third, _), _ = half(4.4, 1.0, 4.0, 2.0)
    assert 0.7198 * math.log(2 * 0.7198) + 0.2802 * math.log(2 * 0.2802) == pytest.approx(0.1, abs=1e-4)
    assert [first[0], third[0]] == pytest.approx([2 * 0.7198, 2 * 0.2802], abs=2e-4)


def test_rounding_is_no_difference():
    """Three groups of advantages -.1 and .1, a few 1e-8 apart: the better three share the weight."""
    trees = [
        Tree(f"{r}", (1,), ((5,), (6,)), ((True,),) * 2, (True,) * 2, reward=(r, r + 0.2)) for r in (0.1, 0.5, 1.1)
    ]
    after = VMPO().credit(collate(trees))
    kept = after.need("advantages_BT")[after.loss_mask_BT]
    assert after.tokens_BT[after.loss_mask_BT].tolist() == [6, 6, 6]
    assert kept.tolist() == pytest.approx([1, 1, 1], abs=0.02)


def test_the_count_is_that_of_the_better_half():
    """Weights of mean 1 over it, so that a learning rate means what it does for plain likelihood."""
    batch = filled(forest(6))
    after = VMPO().credit(batch)
    rows = [row for row in off_trained(after.need("advantages_BT"), after) if row]
    assert 0 < after.loss_mask_BT.sum() < batch.loss_mask_BT.sum()
    assert sum(row[0] for row in rows) == pytest.approx(len(rows))
    loss, _ = VMPO().loss(after, Prediction(-torch.ones_like(batch.need("old_logprobs_BT"))))
    assert loss.count == after.loss_mask_BT.sum()
    assert loss.total.item() == pytest.approx(sum(map(sum, rows)))
