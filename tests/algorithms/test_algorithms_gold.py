"""GOLD against the paper's weighted likelihood, written out token by token, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from algorithms_forest import compare, forest

from tropism.algorithms.gold import GOLD
from tropism.tensors.batch import Prediction
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree


def equation_of(gold: GOLD, told: dict[str, float]):
    def equation(groups, new, value):
        total, weights, logprobs = 0.0, [], []
        for new_K in new:
            for row in new_K:
                for logprob in row:
                    weights.append(max(math.exp(logprob.item()), gold.floor))  # a number: it has no gradient
                    logprobs.append(logprob.item())
                    total = total - weights[-1] * logprob
        told.update({"weight": sum(weights) / len(weights), "logprob": sum(logprobs) / len(logprobs)})
        return total, len(weights)

    return equation


@pytest.mark.parametrize("gold", [GOLD(), GOLD(floor=0.4), GOLD(floor=0.0)], ids=repr)
@pytest.mark.parametrize("seed", range(4, 7))
def test_loss_and_gradient_equal_the_equations(gold: GOLD, seed: int):
    told: dict[str, float] = {}
    assert compare(gold, forest(seed), equation_of(gold, told)) == pytest.approx(told)


def test_by_hand():
    """Tokens of probability ½ and 1/100 under a floor of 1/10: the factors ½ and 1/10 have no gradient of their own."""
    batch = collate([Tree("g", (1,), ((5, 6),), ((True, True),), (True,))])
    logprobs = torch.tensor([[0.0, math.log(0.5), math.log(0.01)]], requires_grad=True)
    loss, metrics = GOLD().loss(GOLD().credit(batch), Prediction(logprobs))
    loss.total.backward()
    assert loss.detach().value == pytest.approx((0.5 * math.log(2) + 0.1 * math.log(100)) / 2)
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([0, -0.5, -0.1])
    assert metrics["weight"].value == pytest.approx(0.3)
