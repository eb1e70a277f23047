"""K-wise: one prompt, one vote; ties, unranked completions and centring by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tropism.algorithms.kwise import KWise
from tropism.errors import TropismError
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.ratio import Ratio
from tropism.tensors.tree import Tree

WORTH = torch.tensor([5.0, 3.0, 2.0, 4.0, 1.0, 9.0])  # scores are their logs


def batch_of(*ranks: tuple[int, ...], judged: tuple[tuple[float | None, ...], ...] | None = None) -> Batch:
    """Groups with these ranks, and perhaps the judge's scores, one token a completion."""
    trees = [
        Tree(f"g{g}", (1,), ((2,),) * len(rank), ((True,),) * len(rank), (True,) * len(rank), rank=rank, reward=y)
        for g, (rank, y) in enumerate(zip(ranks, judged or (None,) * len(ranks)))
    ]
    return collate(trees, 100)


def loss_of(algorithm: KWise, batch: Batch, scores: torch.Tensor) -> tuple[Ratio, dict[str, Ratio]]:
    return algorithm.loss(batch, Prediction(scores_N=scores))


@pytest.mark.parametrize(
    ("likelihood", "first", "second"),
    [
        ("plackett_luce", -math.log(5 / 10 * 3 / 5), -math.log(1 / 5)),
        ("all_pairs", (math.log(8 / 5) + math.log(7 / 5) + math.log(5 / 3)) / 3, math.log(5 / 1)),
        ("top_1", -math.log(5 / 10), -math.log(1 / 5)),
    ],
)
def test_groups_of_any_size_have_one_vote_each(likelihood, first: float, second: float):
    batch = batch_of((1, 2, 3), (2, 1), (0,))  # 5 > 3 > 2; 1 > 4; the third group ranks nothing
    loss, metrics = loss_of(KWise(likelihood, centre=0.0), batch, WORTH.log())
    assert float(loss.total) == pytest.approx(first + second)
    assert float(loss.count) == 2
    assert (float(metrics["pair_accuracy"].total), float(metrics["pair_accuracy"].count)) == (3, 4)


@pytest.mark.parametrize(
    ("unranked", "likelihood"),
    [("out", 5 / 7), ("below", 5 / 10 * 2 / 5)],
)
def test_an_unranked_completion_says_nothing_or_is_below(unranked, likelihood: float):
    loss, metrics = loss_of(KWise(unranked=unranked, centre=0.0), batch_of((1, 0, 2)), WORTH[:3].log())
    assert float(loss.total) == pytest.approx(-math.log(likelihood))
    assert float(metrics["pair_accuracy"].count) == 1


@pytest.mark.parametrize(
    ("unranked", "likelihood", "expected"),
    [
        ("out", "all_pairs", math.log(7 / 5)),
        ("below", "all_pairs", (math.log(7 / 5) + math.log(8 / 5) + math.log(5 / 2)) / 3),  # 5 > 2, 5 > 3, 2 > 3
        ("out", "top_1", -math.log(5 / 7)),
        ("below", "top_1", -math.log(5 / 10)),
    ],
)
def test_unranked_means_the_same_to_every_likelihood(unranked, likelihood, expected: float):
    loss, _ = loss_of(KWise(likelihood, unranked, centre=0.0), batch_of((1, 0, 2)), WORTH[:3].log())
    assert float(loss.total) == pytest.approx(expected)


def test_two_unranked_below_make_no_pair_with_each_other():
    loss, _ = loss_of(KWise("all_pairs", "below", centre=0.0), batch_of((0, 1, 0), (0, 0)), WORTH[:5].log())
    assert float(loss.total) == pytest.approx((math.log(8 / 3) + math.log(5 / 3)) / 2)
    assert float(loss.count) == 1


def test_a_margin_asks_for_more_where_the_judge_sees_more():
    """Scores 1 and 0; the judge's lie 4 apart: -log sigmoid(1 - 0.5 * 4), and the gradient of it."""
    batch = batch_of((1, 2), judged=((7.0, 3.0),))
    scores = torch.tensor([1.0, 0.0], requires_grad=True)
    loss, metrics = loss_of(KWise("all_pairs", margin=0.5, centre=0.0), batch, scores)
    assert loss.detach().value == pytest.approx(math.log(1 + math.exp(-(1 - 2))))
    loss.total.backward()
    push = 1 / (1 + math.exp(1 - 2))
    assert scores.grad.tolist() == pytest.approx([-push, push])
    assert metrics["pair_accuracy"].value == 1.0  # of the scores themselves


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_margins_equal_the_loop_over_pairs(margin: float):
    generator = torch.Generator().manual_seed(1)
    judged = ((3.0, 1.5, None, 1.5, 0.0), (0.2, 0.9), (None, 4.0, 2.0))
    ranks = ((1, 2, 0, 2, 3), (2, 1), (0, 1, 2))
    scores = 2 * torch.randn(10, generator=generator)
    own = iter(scores.tolist())
    expected = 0.0
    for ys, rank in zip(judged, ranks):
        s = [next(own) for _ in ys]
        terms = [
            math.log(1 + math.exp(-(s[w] - s[v] - margin * (ys[w] - ys[v]))))  # type: ignore[operator]
            for w in range(len(ys))
            for v in range(len(ys))
            if 0 < rank[w] < rank[v]
        ]
        expected += sum(terms) / len(terms)
    algorithm = KWise("all_pairs", margin=margin, centre=0.0)
    assert float(loss_of(algorithm, batch_of(*ranks, judged=judged), scores)[0].total) == pytest.approx(expected)
    prediction = Prediction(scores_N=scores, scores_BT=torch.zeros_like(batch_of(*ranks).tokens_BT, dtype=torch.float))
    batch = batch_of(*ranks, judged=judged)
    prediction.scores_BT.flatten()[batch.last_N] = scores  # type: ignore[union-attr]
    along, _ = KWise("all_pairs", margin=margin, running=0.4, centre=0.0).loss(batch, prediction)
    assert float(along.total) == pytest.approx(expected)  # of one token each, along the way is the end


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"margin": 0.1}, "margin = 0.1 works on pairs"),
        ({"likelihood": "all_pairs", "margin": 0.1, "unranked": "below"}, 'set unranked = "out"'),
    ],
)
def test_a_margin_without_a_meaning_is_refused(wrong, says: str):
    with pytest.raises(TropismError, match=says):
        KWise(**wrong)


def test_ties_share_denominators_or_make_no_pair():
    batch, scores = batch_of((1, 1, 2)), WORTH[:3].log()
    for likelihood in ("plackett_luce", "top_1"):
        loss, _ = loss_of(KWise(likelihood, centre=0.0), batch, scores)
        assert float(loss.total) == pytest.approx(-math.log(5 / 10 * 3 / 10))
    loss, metrics = loss_of(KWise("all_pairs", centre=0.0), batch, scores)
    assert float(loss.total) == pytest.approx((math.log(7 / 5) + math.log(5 / 3)) / 2)
    assert float(metrics["pair_accuracy"].value) == 1.0


def test_equal_scores_are_not_right():
    _, metrics = loss_of(KWise(), batch_of((1, 2)), torch.zeros(2))
    assert metrics["pair_accuracy"].value == 0.0


def test_centre_pulls_the_mean_of_each_group_that_speaks_to_zero():
    batch = batch_of((1, 2), (0, 0))
    scores = torch.tensor([3.0, 1.0, 50.0, 60.0], requires_grad=True)
    loss, _ = loss_of(KWise(centre=0.1), batch, scores)
    assert loss.detach().value == pytest.approx(math.log(1 + math.exp(-2)) + 0.1 * 2.0**2)
    loss.total.backward()
    push = 1 / (1 + math.exp(2))
    assert scores.grad.tolist() == pytest.approx([-push + 0.1 * 2, push + 0.1 * 2, 0, 0])


@pytest.mark.parametrize("likelihood", ["plackett_luce", "all_pairs", "top_1"])
def test_a_batch_that_ranks_nothing_has_a_zero_gradient(likelihood):
    scores = WORTH[:5].log().requires_grad_()
    loss, metrics = loss_of(KWise(likelihood), batch_of((0, 0, 0), (0, 0)), scores)
    loss.total.backward()
    assert (float(loss.total.detach()), float(loss.count), float(metrics["pair_accuracy"].count)) == (0, 0, 0)
    assert scores.grad.tolist() == [0] * 5


def test_credit_changes_nothing():
    batch = batch_of((1, 2))
    assert KWise().credit(batch) is batch


@pytest.mark.parametrize("twins", [False, True])
def test_along_the_way_a_shorter_completion_stands_by_its_last_score(twins: bool):
    """Against the definition, written out: the mean over t of the pair's likelihood after t tokens."""
    answers = [((5, 6, 7), (5, 8)), ((9,), (5, 6, 7), (9,))]
    ranks = [(1, 2), (2, 1, 2)]
    trees = [
        Tree(str(g), (1, 2), cs, tuple((True,) * len(c) for c in cs), (True,) * len(cs), rank=r)
        for g, (cs, r) in enumerate(zip(answers, ranks))
    ]
    batch = collate(trees, 100, twins=twins)
    scores_BT = torch.randn(batch.tokens_BT.shape, generator=torch.Generator().manual_seed(0))
    flat, width = scores_BT.flatten(), batch.tokens_BT.shape[1]
    assert width == batch.tokens_BT.numel()  # one row, so that a completion's scores end at `last_N`
    ends = iter(batch.last_N.tolist())
    expected = 0.0
    for cs, rank in zip(answers, ranks):
        scores = [[float(flat[end - len(c) + 1 + t]) for t in range(len(c))] for c in cs if (end := next(ends)) or True]
        longest = max(map(len, cs))

        def likelihood(t: int, cs=cs, rank=rank, scores=scores) -> float:
            s = [scores[k][min(t, len(cs[k]) - 1)] for k in range(len(cs))]
            total = 0.0
            for k in range(len(cs)):
                tail = [s[j] for j in range(len(cs)) if rank[j] >= rank[k]]
                total -= s[k] - math.log(sum(map(math.exp, tail))) if len(tail) > 1 else 0.0
            return total

        last = likelihood(longest - 1)
        expected += 0.25 * last + 0.75 * sum(likelihood(t) for t in range(longest)) / longest
    prediction = Prediction(scores_N=flat[batch.last_N], scores_BT=scores_BT)
    loss, _ = KWise(running=0.75, centre=0.0).loss(batch, prediction)
    assert float(loss.total) == pytest.approx(expected, abs=1e-5)
    assert float(loss.count) == 2
