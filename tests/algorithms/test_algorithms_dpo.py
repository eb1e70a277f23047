"""DPO against its likelihoods, written out group by group, and against the textbook for K = 2."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from algorithms_forest import Answer, answers, compare, forest, on_trained

from tropism.algorithms.dpo import DPO
from tropism.errors import TropismError
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree

KNOBS = {
    "plackett-luce": DPO(),
    "plackett-luce with sft": DPO(beta=0.7, sft=0.3),
    "sigmoid": DPO(likelihood="sigmoid", beta=0.5),
    "smoothed": DPO(likelihood="sigmoid", beta=0.5, label_smoothing=0.2, sft=1.1),
    "ipo": DPO(likelihood="ipo", beta=0.2),
    "ipo with sft": DPO(likelihood="ipo", beta=1.5, sft=0.4),
}


def pairs(group: list[Answer]) -> list[tuple[int, int]]:
    """(winner, loser) of every ranked pair."""
    ks = range(len(group))
    return [(win, lose) for win in ks for lose in ks if 0 < group[win].rank < group[lose].rank]


def equation_of(dpo: DPO, told: dict[str, float]):
    def equation(groups, new, value):
        total, count, margins, likely = torch.zeros((), dtype=torch.float64), 0, [], []
        for group, new_K in zip(groups, new):
            ranked = [k for k, a in enumerate(group) if a.rank > 0]
            if not ranked:
                continue
            count += 1
            log_ratio = [sum((n - r for n, r in zip(row, a.ref)), torch.zeros(())) for a, row in zip(group, new_K)]
            mean = [x / max(len(a.ref), 1) for x, a in zip(log_ratio, group)]
            made = pairs(group)
            if dpo.likelihood == "plackett_luce":
                for i in ranked:
                    left = sum((dpo.beta * log_ratio[j]).exp() for j in ranked if group[j].rank >= group[i].rank)
                    total = total - ((dpo.beta * log_ratio[i]).exp() / left).log()
            for win, lose in made:
                if dpo.likelihood == "ipo":
                    margin = mean[win] - mean[lose]
                    term = (margin - 1 / (2 * dpo.beta)) ** 2
                else:
                    margin, e = dpo.beta * (log_ratio[win] - log_ratio[lose]), dpo.label_smoothing
                    right = 1 / (1 + (-margin).exp())
                    term = -(1 - e) * right.log() - e * (1 - right).log()
                margins.append(margin.item())
                if dpo.likelihood != "plackett_luce":
                    total = total + term / len(made)
            best = [sum(new_K[k], torch.zeros(())) / max(len(new_K[k]), 1) for k in ranked if group[k].rank == 1]
            likely += [x.item() for x in best]
            if best:
                total = total - dpo.sft * sum(best) / len(best)
        told.update(
            {
                "pair_accuracy": sum(m > 0 for m in margins) / len(margins),
                "margin": sum(margins) / len(margins),
                "best_logprob": sum(likely) / len(likely),
            }
        )
        return total, count

    return equation


@pytest.mark.parametrize("dpo", KNOBS.values(), ids=KNOBS)
@pytest.mark.parametrize("seed", range(4, 7))
def test_loss_and_gradient_equal_the_equations(dpo: DPO, seed: int):
    """Ties, unranked completions and a group without ranks among them."""
    told: dict[str, float] = {}
    trees = forest(seed)
    assert compare(dpo, trees, equation_of(dpo, told)) == pytest.approx(told, rel=1e-6)
    ranks = [[a.rank for a in group] for group in answers(trees)]
    assert not any(ranks[-1])
    assert any(0 in r and any(r) for r in ranks)
    assert any(len({x for x in r if x}) < len([x for x in r if x]) for r in ranks)


def pair(win: tuple[float, ...], lose: tuple[float, ...], rank: tuple[int, ...] = (1, 2)) -> tuple[Batch, Prediction]:
    """Two answers whose tokens have these log-ratios to the reference, which gives each token -1."""
    lengths = (len(win), len(lose))
    words, kept = tuple((5,) * n for n in lengths), tuple((True,) * n for n in lengths)
    batch = collate([Tree("g", (1,), words, kept, (True, True), rank=rank)])
    ref = on_trained(batch, [[-1.0] * n for n in lengths])
    return batch.replace(ref_logprobs_BT=ref), Prediction(ref + on_trained(batch, [list(win), list(lose)]))


@pytest.mark.parametrize(
    ("dpo", "loss"),
    [
        # the winner's tokens moved by .2 + .4, the loser's by -.3: .9 nats apart in sum, .3 + .3 in mean
        (DPO(beta=0.5), math.log(1 + math.exp(-0.45))),
        (DPO(beta=0.5, likelihood="sigmoid"), math.log(1 + math.exp(-0.45))),
        (
            DPO(beta=0.5, likelihood="sigmoid", label_smoothing=0.1),
            0.9 * math.log(1 + math.exp(-0.45)) + 0.1 * math.log(1 + math.exp(0.45)),
        ),
        (DPO(beta=0.5, likelihood="ipo"), (0.6 - 1) ** 2),
        (DPO(beta=0.5, likelihood="ipo", sft=2.0), (0.6 - 1) ** 2 + 2 * 0.7),
    ],
    ids=["plackett-luce", "sigmoid", "smoothed", "ipo", "sft"],
)
def test_a_pair_is_textbook_dpo(dpo: DPO, loss: float):
    found, metrics = dpo.loss(*pair((0.2, 0.4), (-0.3,)))
    assert found.value == pytest.approx(loss)
    assert metrics["margin"].value == pytest.approx(0.6 if dpo.likelihood == "ipo" else 0.45)
    assert metrics["best_logprob"].value == pytest.approx(-0.7)
    assert metrics["pair_accuracy"].value == 1


def test_the_gradient_of_a_pair_is_that_of_the_paper():
    """- beta σ(-margin) (∇ log π(y_w) - ∇ log π(y_l))"""
    batch, prediction = pair((0.2, 0.4), (-0.3,))
    logprobs = prediction.need("logprobs_BT").clone().requires_grad_()
    DPO(beta=0.5).loss(batch, Prediction(logprobs))[0].total.backward()
    weight = 0.5 / (1 + math.exp(0.45))
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([0, -weight, -weight, weight])


def test_three_by_hand():
    """Worths e^s of 5, 3 and 2 in this order: 5/10 · 3/5."""
    words = ((5,), (5,), (5,))
    batch = collate([Tree("g", (1,), words, ((True,),) * 3, (True,) * 3, rank=(1, 2, 3))])
    ref = on_trained(batch, [[-1.0]] * 3)
    now = ref + on_trained(batch, [[math.log(x) / 0.1] for x in (5, 3, 2)])
    loss, _ = DPO(beta=0.1).loss(batch.replace(ref_logprobs_BT=ref), Prediction(now))
    assert loss.value == pytest.approx(-math.log(0.5 * 0.6))
    loss, _ = DPO(beta=0.1, likelihood="sigmoid").loss(batch.replace(ref_logprobs_BT=ref), Prediction(now))
    assert loss.value == pytest.approx(-math.log(5 / 8 * 5 / 7 * 3 / 5) / 3)


@pytest.mark.parametrize("likelihood", ["sigmoid", "ipo"])
def test_a_tie_makes_no_pair(likelihood):
    batch, prediction = pair((0.2, 0.4), (-0.3,), rank=(1, 1))
    loss, metrics = DPO(likelihood=likelihood).loss(batch, prediction)
    assert (loss.total.item(), loss.count.item()) == (0, 1)
    assert math.isnan(metrics["margin"].value)


def test_a_tie_pulls_together_under_plackett_luce():
    """Breslow: both stand before the two of them, so equal scores are best."""
    apart, equal = (DPO().loss(*pair(x, (0.0,), rank=(1, 1)))[0].value for x in ((3.0,), (0.0,)))
    assert equal == pytest.approx(2 * math.log(2))
    assert apart > equal


def test_the_unranked_stay_out():
    """Loss and gradient are what they would be without them."""
    trees = [t for t in forest(5) if t.rank and any(t.rank)]

    def without(tree: Tree) -> Tree:
        kept = [k for k, rank in enumerate(tree.rank or ()) if rank]
        fields = ("completions", "trained", "ended", "logprobs", "reward", "rank")
        return dataclasses.replace(tree, **{f: tuple(getattr(tree, f)[k] for k in kept) for f in fields})

    def loss(trees: list[Tree], dpo: DPO) -> float:
        batch = collate(trees)
        zeros = torch.zeros_like(batch.need("old_logprobs_BT"))
        return dpo.loss(batch.replace(ref_logprobs_BT=zeros), Prediction(batch.need("old_logprobs_BT")))[0].value

    fewer = [without(t) for t in trees]
    assert sum(len(t.completions) for t in fewer) < sum(len(t.completions) for t in trees)
    for dpo in KNOBS.values():
        assert loss(fewer, dpo) == pytest.approx(loss(trees, dpo))


@pytest.mark.parametrize("fields", [{"label_smoothing": 0.1}, {"likelihood": "ipo", "label_smoothing": 0.1}])
def test_knobs_that_cannot_be(fields: dict):
    with pytest.raises(TropismError, match="dpo"):
        DPO(**fields)
