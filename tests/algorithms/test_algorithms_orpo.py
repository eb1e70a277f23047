"""ORPO against its loss, written out with probabilities group by group, and by hand for K = 2."""

from __future__ import annotations

import math

import pytest
import torch
from algorithms_forest import compare, forest, off_trained, on_trained

from tropism.algorithms.orpo import ORPO
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree


def equation_of(orpo: ORPO):
    def equation(groups, new, value):
        total, count = torch.zeros((), dtype=torch.float64), 0
        for group, new_K in zip(groups, new):
            ranked = [k for k, a in enumerate(group) if a.rank > 0 and a.old]
            count += bool(ranked)
            mean = {k: sum(new_K[k], torch.zeros(())) / len(new_K[k]) for k in ranked}
            chance = {k: mean[k].clamp(max=-1e-6).exp() for k in ranked}
            odds = {k: p / (1 - p) for k, p in chance.items()}
            for i in ranked:
                field = sum(odds[j] for j in ranked if group[j].rank >= group[i].rank)
                total = total - orpo.odds * (odds[i] / field).log()
            best = [mean[k] for k in ranked if group[k].rank == 1]
            total = total - (sum(best) / len(best) if best else 0.0)
        return total, count

    return equation


@pytest.mark.parametrize("orpo", [ORPO(), ORPO(odds=2.0), ORPO(odds=0.0)], ids=repr)
@pytest.mark.parametrize("seed", range(4, 7))
def test_loss_and_gradient_equal_the_equations(orpo: ORPO, seed: int):
    """Ties, unranked completions, ranked ones without a trained token and a group without ranks among them."""
    metrics = compare(orpo, forest(seed), equation_of(orpo))
    assert set(metrics) == {"pair_accuracy", "margin", "best_logprob"}


def pair(win: list[float], lose: list[float]) -> tuple[Batch, torch.Tensor]:
    """Two answers whose tokens have these probabilities."""
    words, kept = tuple((5,) * len(t) for t in (win, lose)), tuple((True,) * len(t) for t in (win, lose))
    batch = collate([Tree("g", (1,), words, kept, (True, True), rank=(1, 2))])
    return batch, on_trained(batch, [[math.log(p) for p in t] for t in (win, lose)]).requires_grad_()


def test_a_pair_is_the_papers():
    """Geometric means ½ and 1/5: odds 1 and 1/4, so the better one is ahead by log 4."""
    batch, now = pair([0.25, 1.0], [0.2])
    loss, metrics = ORPO(odds=0.3).loss(batch, Prediction(now))
    assert loss.detach().value == pytest.approx(math.log(2) + 0.3 * math.log(5 / 4), rel=1e-5)
    assert metrics["margin"].value == pytest.approx(math.log(4), rel=1e-5)
    assert metrics["best_logprob"].value == pytest.approx(-math.log(2))


def test_the_gradient_is_that_of_the_paper():
    """d log odds / d log p = 1 / (1 - p): 2 for ½ and 5/4 for 1/5, times σ(-log 4) = 1/5."""
    batch, now = pair([0.25, 1.0], [0.2])
    ORPO(odds=0.3).loss(batch, Prediction(now))[0].total.backward()
    assert now.grad is not None
    better = pytest.approx((-1 - 0.3 * 2 / 5) / 2)  # half for each of its two tokens
    assert off_trained(now.grad, batch) == [[better, better], [pytest.approx(0.3 * 1.25 / 5)]]


@pytest.mark.parametrize(("win", "lose"), [(1.0, 0.2), (0.2, 1.0), (1.0, 1.0)])
def test_certainty_is_finite(win: float, lose: float):
    batch, now = pair([win], [lose])
    loss, metrics = ORPO().loss(batch, Prediction(now))
    loss.total.backward()
    assert now.grad is not None
    assert torch.isfinite(now.grad).all() and torch.isfinite(loss.total)
    assert math.isfinite(metrics["margin"].value)
