"""AWR against its weighted likelihood, written out token by token, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from algorithms_forest import compare, forest, off_trained

from tropism.algorithms.awr import AWR
from tropism.tensors.batch import Prediction
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree


def equation_of(awr: AWR, told: dict[str, float]):
    def equation(groups, new, value):
        total, weights, logprobs = 0.0, [], []
        for group, new_K in zip(groups, new):
            scored = [a.reward for a in group if a.reward is not None]
            for a, row in zip(group, new_K):
                if a.reward is None:
                    continue
                weight = min(math.exp((a.reward - sum(scored) / len(scored)) / awr.temperature), awr.limit)
                for logprob in row:
                    total = total - weight * logprob
                    weights.append(weight)
                    logprobs.append(logprob.item())
        told.update({"weight": sum(weights) / len(weights), "logprob": sum(logprobs) / len(logprobs)})
        return total, len(weights)

    return equation


@pytest.mark.parametrize("awr", [AWR(), AWR(temperature=0.2, limit=5.0)], ids=repr)
@pytest.mark.parametrize("seed", range(4, 7))
def test_loss_and_gradient_equal_the_equations(awr: AWR, seed: int):
    told: dict[str, float] = {}
    assert compare(awr, forest(seed), equation_of(awr, told)) == pytest.approx(told)


def weights(awr: AWR, *rewards: float | None) -> list[list[float]]:
    """Of answers of 1, 2, 3 … tokens."""
    lengths = range(1, len(rewards) + 1)
    words, kept = tuple((5,) * n for n in lengths), tuple((True,) * n for n in lengths)
    batch = collate([Tree("g", (1,), words, kept, (True,) * len(words), reward=rewards)])
    after = awr.credit(batch)
    return off_trained(after.need("advantages_BT"), after)


def test_weights_by_hand():
    """Rewards 1 and 3 are 1 below and above their mean; one that was not scored is not in it."""
    down, up = math.exp(-0.5), math.exp(0.5)
    expected = [[pytest.approx(down)], [pytest.approx(up)] * 2]
    assert weights(AWR(temperature=2.0), 1.0, 3.0) == expected
    assert weights(AWR(temperature=2.0), 1.0, 3.0, None) == [*expected, []]
    assert weights(AWR(temperature=2.0, limit=1.2), 1.0, 3.0) == [[pytest.approx(down)], [pytest.approx(1.2)] * 2]
    assert weights(AWR(temperature=1e-3, limit=7.0), 0.0, 1e4) == [[0.0], [7.0] * 2]  # exp overflows: still the limit
    assert weights(AWR(), *[0.1] * 7) == [[1.0] * n for n in range(1, 8)]  # equal rewards: plain likelihood


def test_each_token_counts():
    batch = collate(
        [Tree("g", (1,), ((5,), (5, 5, 5)), ((True,), (True, False, True)), (True,) * 2, reward=(1.0, 3.0))]
    )
    loss, _ = AWR(temperature=2.0).loss(AWR(temperature=2.0).credit(batch), Prediction(-torch.ones(1, 5)))
    assert (loss.total.item(), loss.count.item()) == (pytest.approx(math.exp(-0.5) + 2 * math.exp(0.5)), 3)
