"""KTO against the paper's value function, written out completion by completion, and by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from algorithms_forest import answers, compare, filled, forest, on_trained

from tropism.algorithms.kto import KTO
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree


def sigmoid(x):
    return 1 / (1 + torch.exp(torch.as_tensor(-x)))


def equation_of(kto: KTO, told: dict[str, float]):
    def equation(groups, new, value):
        every = [(a, row) for group, new_K in zip(groups, new) for a, row in zip(group, new_K)]
        strange = [a for a, _ in every if a.reward is None and a.old]
        z = max(0.0, sum(o - r for a in strange for o, r in zip(a.old, a.ref)) / len(strange))
        total, rewards = torch.zeros((), dtype=torch.float64), {True: [], False: []}
        for a, row in every:
            if a.reward is None:
                continue
            h, up = sum((n - r for n, r in zip(row, a.ref)), torch.zeros(())), a.reward > kto.threshold
            if up:
                total = total + kto.good * (1 - sigmoid(kto.beta * (h - z)))
            else:
                total = total + kto.bad * (1 - sigmoid(kto.beta * (z - h)))
            rewards[up].append(kto.beta * h.item())
        told.update({"baseline": z})
        told.update(
            {n: sum(rewards[up]) / len(rewards[up]) for n, up in (("good_reward", True), ("bad_reward", False))}
        )
        return total, sum(map(len, rewards.values()))

    return equation


@pytest.mark.parametrize("kto", [KTO(threshold=0.0), KTO(beta=0.8, threshold=-0.4, good=1.3, bad=0.6)], ids=repr)
@pytest.mark.parametrize("seed", range(4, 8))
def test_loss_and_gradient_equal_the_equations(kto: KTO, seed: int):
    told: dict[str, float] = {}
    metrics = compare(kto, forest(seed), equation_of(kto, told))
    assert metrics == pytest.approx(told, rel=1e-6, abs=1e-9)


def thumbs(drift: float) -> tuple[Batch, Prediction]:
    """A thumb up and a thumb down, .5 and .3 nats above the reference now; a mismatched answer whose two tokens the
    policy before the update had `drift` above it, and has 9 nats above it now."""
    words, kept = ((5,), (5,), (5, 5)), ((True,), (True,), (True, True))
    batch = collate([Tree("g", (1,), words, kept, (True,) * 3, ((-1.0,), (-1.0,), (-1.0, -1.0)), (1.0, 0.0, None))])
    old, rows = batch.need("old_logprobs_BT"), [[0.5], [0.3], [9.0, 9.0]]
    ref = old - on_trained(batch, [[0.0], [0.0], [drift / 2] * 2])
    return batch.replace(ref_logprobs_BT=ref), Prediction(ref + on_trained(batch, rows))


@pytest.mark.parametrize(("drift", "z"), [(0.2, 0.2), (-0.7, 0.0)])
def test_by_hand(drift: float, z: float):
    """z is the mean log-ratio of the mismatched before the update, and never below 0."""
    kto = KTO(beta=2.0, good=1.5, bad=0.5)
    batch, prediction = thumbs(drift)
    batch = kto.credit(batch)
    assert batch.need("baseline_N").tolist() == pytest.approx([z] * 3)
    loss, metrics = kto.loss(batch, prediction)
    up, down = 1 / (1 + math.exp(-2 * (0.5 - z))), 1 / (1 + math.exp(-2 * (z - 0.3)))
    assert loss.value == pytest.approx((1.5 * (1 - up) + 0.5 * (1 - down)) / 2)
    assert metrics["good_reward"].value == pytest.approx(1.0)
    assert metrics["bad_reward"].value == pytest.approx(0.6)


def test_the_mismatched_and_z_have_no_gradient():
    """- good beta σ'(…) for the thumb up, + bad beta σ'(…) for the thumb down, nothing for the mismatched."""
    kto = KTO(beta=2.0)
    batch, prediction = thumbs(0.2)
    logprobs = prediction.need("logprobs_BT").clone().requires_grad_()
    kto.loss(kto.credit(batch), Prediction(logprobs))[0].total.backward()

    def slope(x: float) -> float:
        return math.exp(-x) / (1 + math.exp(-x)) ** 2

    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([0, -2 * slope(2 * 0.3), 2 * slope(2 * 0.1), 0, 0], rel=1e-5)


def test_a_mismatched_completion_of_which_nothing_is_trained_says_nothing():
    """z is the mean over those that have a log-ratio."""
    batch, _ = thumbs(0.2)
    empty = dataclasses.replace(batch, scored_N=torch.tensor([True, False, False]))
    empty = empty.replace(loss_mask_BT=batch.loss_mask_BT & (batch.completion_BT != 1))
    assert KTO().credit(empty).need("baseline_N").tolist() == pytest.approx([0.2] * 3)


def test_without_mismatched_completions_z_is_0():
    batch, _ = thumbs(0.2)
    batch = batch.replace(
        scored_N=torch.tensor([True, True, False]), loss_mask_BT=batch.loss_mask_BT & (batch.completion_BT < 2)
    )
    assert not KTO().credit(batch).need("baseline_N").any()


def test_z_is_of_the_whole_update():
    """It is fixed before an update is cut into passes, so every completion carries the same."""
    batch = KTO().credit(filled(forest(5), row_tokens=40))
    z = batch.need("baseline_N")
    assert float(z.max()) == float(z.min()) > 0
    assert len(z) == sum(len(group) for group in answers(forest(5)))
