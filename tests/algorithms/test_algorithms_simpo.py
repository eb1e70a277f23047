"""SimPO against its likelihood, written out group by group, and against the paper for K = 2."""

from __future__ import annotations

import math

import pytest
import torch
from algorithms_forest import answers, compare, forest, off_trained, on_trained

from tropism.algorithms.simpo import SimPO
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree


def equation_of(simpo: SimPO, told: dict[str, float]):
    def equation(groups, new, value):
        total, count, margins, likely = torch.zeros((), dtype=torch.float64), 0, [], []
        for group, new_K in zip(groups, new):
            ranked = [k for k, a in enumerate(group) if a.rank > 0 and a.old]
            count += bool(ranked)
            mean = {k: sum(new_K[k], torch.zeros(())) / len(new_K[k]) for k in ranked}
            worth = {k: (simpo.beta * mean[k]).exp() for k in ranked}
            for i in ranked:
                equals = sum(worth[j] for j in ranked if group[j].rank == group[i].rank)
                worse = sum(worth[j] for j in ranked if group[j].rank > group[i].rank)
                total = total - (worth[i] / (equals + math.exp(simpo.margin) * worse)).log()
                margins += [simpo.beta * (mean[i] - mean[j]).item() for j in ranked if group[j].rank > group[i].rank]
            likely += [mean[k].item() for k in ranked if group[k].rank == 1]
        told["pair_accuracy"] = sum(m > 0 for m in margins) / len(margins)
        told["margin"] = sum(margins) / len(margins)
        told["best_logprob"] = sum(likely) / len(likely)
        return total, count

    return equation


@pytest.mark.parametrize("simpo", [SimPO(), SimPO(beta=0.7, margin=0.0), SimPO(margin=2.5)], ids=repr)
@pytest.mark.parametrize("seed", range(4, 7))
def test_loss_and_gradient_equal_the_equations(simpo: SimPO, seed: int):
    """Ties, unranked completions, ranked ones without a trained token and a group without ranks among them."""
    told: dict[str, float] = {}
    assert compare(simpo, forest(seed), equation_of(simpo, told)) == pytest.approx(told, rel=1e-6)


def test_the_forests_have_ranked_completions_without_a_trained_token():
    assert any(a.rank and not a.old for seed in range(4, 7) for group in answers(forest(seed)) for a in group)


def groups(*tokens: list[float], rank: tuple[int, ...]) -> tuple[Batch, torch.Tensor]:
    """One group whose tokens have these log-probabilities."""
    words, kept = tuple((5,) * len(t) for t in tokens), tuple((True,) * len(t) for t in tokens)
    batch = collate([Tree("g", (1,), words, kept, (True,) * len(tokens), rank=rank)])
    return batch, on_trained(batch, list(tokens)).requires_grad_()


def test_a_pair_is_the_papers():
    """Means of -2 and -4: 2 · 2 - 1 = 3 log-odds. The gradient is beta σ(-3) / T, T tokens each."""
    batch, now = groups([-1.0, -3.0], [-4.0], rank=(1, 2))
    loss, metrics = SimPO(beta=2.0, margin=1.0).loss(batch, Prediction(now))
    loss.total.backward()
    assert loss.detach().value == pytest.approx(math.log(1 + math.exp(-3)))
    weight = 2.0 / (1 + math.exp(3))
    assert now.grad is not None
    assert off_trained(now.grad, batch) == [[pytest.approx(-weight / 2)] * 2, [pytest.approx(weight)]]
    assert {name: r.value for name, r in metrics.items()} == pytest.approx(
        {"pair_accuracy": 1.0, "margin": 4.0, "best_logprob": -2.0}
    )


def test_length_is_no_merit():
    """Twice as long with the same mean: the same loss. DPO's sum would differ."""
    short, long = (SimPO().loss(b, Prediction(x))[0].value for b, x in (
        groups([-1.0, -3.0], [-4.0], rank=(1, 2)), groups([-1.0, -3.0] * 2, [-4.0] * 5, rank=(1, 2))
    ))  # fmt: skip
    assert short == pytest.approx(long)


def test_three_by_hand():
    """Worths of 5, 3 and 2; a margin of log 2 doubles what stands below: 5/(5 + 6 + 4) · 3/(3 + 4)."""
    batch, now = groups(*([math.log(x)] for x in (5, 3, 2)), rank=(1, 2, 3))
    loss, _ = SimPO(beta=1.0, margin=math.log(2)).loss(batch, Prediction(now))
    assert loss.detach().value == pytest.approx(-math.log(5 / 15 * 3 / 7))


def test_a_tie_has_no_margin():
    batch, now = groups([-1.0], [-1.0, -1.0], rank=(1, 1))
    loss, metrics = SimPO(margin=3.0).loss(batch, Prediction(now))
    assert loss.detach().value == pytest.approx(2 * math.log(2))
    assert math.isnan(metrics["margin"].value)


def test_no_trained_token_is_not_the_best_answer():
    """An empty mean is not 0 nats, which nothing could beat: the completion says nothing, and has no gradient."""
    words, kept = ((5,), (5,)), ((False,), (True,))
    batch = collate([Tree("g", (1,), words, kept, (True, True), rank=(2, 1))])
    now = on_trained(batch, [[], [-4.0]]).requires_grad_()
    loss, metrics = SimPO().loss(batch, Prediction(now))
    assert (loss.total.item(), loss.count.item()) == (0, 1)
    assert metrics["pair_accuracy"].count == 0
