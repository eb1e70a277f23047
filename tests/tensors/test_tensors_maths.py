"""Pure functions against hand-worked numbers and slow formulas written out in plain Python."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from torch import Tensor

from tropism.tensors.maths import (
    bradley_terry,
    chosen_logprobs,
    entropy,
    gae,
    k1,
    k3,
    pairs,
    plackett_luce,
    shaped,
    top_1,
    whiten,
)

LOG = [math.log(5), math.log(3), math.log(2)]  # worths of 5, 3 and 2: an order's probability is a product of shares


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def luce(scores: list[float], rank: list[int], below: bool = False, margin: float = 0.0) -> float:
    """Negative log-likelihood of one ranking, by loops; `rank` 0 is unranked. What stands below is `margin` higher."""
    loss = 0.0
    for i in range(len(scores)):
        if rank[i] == 0:
            continue
        left = [scores[j] for j in range(len(scores)) if rank[j] == rank[i]]
        under = [scores[j] for j in range(len(scores)) if rank[j] > rank[i] or (below and rank[j] == 0)]
        loss -= scores[i] - math.log(
            sum(math.exp(s) for s in left) + math.exp(margin) * sum(math.exp(s) for s in under)
        )
    return loss


# ---- Plackett-Luce and Bradley-Terry


@pytest.mark.parametrize(
    ("rank", "below", "likelihood"),
    [
        ([1, 2, 3], False, 5 / 10 * 3 / 5),
        ([3, 2, 1], False, 2 / 10 * 3 / 8),
        ([2, 3, 1], False, 2 / 10 * 5 / 8),
        ([1, 1, 2], False, 5 / 10 * 3 / 10),  # Breslow: both stand before the whole field
        ([1, 2, 2], False, 5 / 10 * 3 / 5 * 2 / 5),
        ([1, 0, 2], False, 5 / 7),  # the unranked one is out
        ([0, 0, 1], False, 1.0),  # alone: certain
        ([0, 1, 0], True, 3 / 10),  # top-1: best of all
        ([1, 2, 0], True, 5 / 10 * 3 / 5),  # partial: the rest stays in the denominators
        ([2, 0, 7], False, 5 / 7),  # only the order of the ranks counts
    ],
)
def test_plackett_luce_by_hand(rank: list[int], below: bool, likelihood: float):
    loss = plackett_luce(rows(LOG), torch.tensor([rank]), torch.ones(1, 3, dtype=torch.bool), below)
    assert loss.item() == pytest.approx(-math.log(likelihood))


def test_likelihoods_of_all_orders_sum_to_one():
    scores = torch.randn(4, dtype=torch.float64)
    orders = torch.tensor(list(itertools.permutations([1, 2, 3, 4])))
    loss = plackett_luce(scores.expand(24, 4), orders, torch.ones(24, 4, dtype=torch.bool))
    assert loss.neg().exp().sum().item() == pytest.approx(1.0)


def test_two_completions_are_a_sigmoid():
    scores = torch.randn(9, 2, dtype=torch.float64)
    rank = torch.tensor([[1, 2]] * 4 + [[2, 1]] * 5)
    winner_minus_loser = torch.cat([scores[:4, 0] - scores[:4, 1], scores[4:, 1] - scores[4:, 0]])
    expected = (1 + (-winner_minus_loser).exp()).log()
    mask = torch.ones(9, 2, dtype=torch.bool)
    for loss in (plackett_luce, bradley_terry, top_1):
        assert torch.allclose(loss(scores, rank, mask), expected)


def random_rankings(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Groups of 1 to 6 with ties and unranked completions, in a (50, 6) frame with rubbish beyond each group."""
    rng = random.Random(seed)
    sizes = [rng.randint(1, 6) for _ in range(50)]
    rank = torch.tensor([[rng.randint(0, 4) for _ in range(6)] for _ in sizes])
    mask = torch.tensor([[k < size for k in range(6)] for size in sizes])
    return 3 * torch.randn(50, 6, dtype=torch.float64), rank, mask


@pytest.mark.parametrize("margin", [0.0, 0.8])
@pytest.mark.parametrize("below", [False, True])
def test_plackett_luce_equals_the_loop(below: bool, margin: float):
    scores, rank, mask = random_rankings(0)
    expected = [luce(s[m].tolist(), r[m].tolist(), below, margin) for s, r, m in zip(scores, rank, mask)]
    assert torch.allclose(plackett_luce(scores, rank, mask, below, margin), rows(expected)[0])


def test_bradley_terry_equals_the_loop():
    scores, rank, mask = random_rankings(1)
    expected = []
    for s, r, m in zip(scores.tolist(), rank.tolist(), mask.tolist()):
        terms = [
            math.log(1 + math.exp(s[j] - s[i])) for i in range(6) for j in range(6) if m[i] and m[j] and 0 < r[i] < r[j]
        ]
        expected.append(sum(terms) / len(terms) if terms else 0.0)
    assert torch.allclose(bradley_terry(scores, rank, mask), rows(expected)[0])


@pytest.mark.parametrize(
    ("rank", "below", "likelihood"),
    [
        ([1, 2, 3], False, 5 / 10),
        ([3, 2, 1], False, 2 / 10),
        ([3, 1, 2], True, 3 / 10),
        ([1, 1, 2], False, 5 / 10 * 3 / 10),  # Breslow: both stand before the whole field
        ([2, 0, 3], False, 5 / 7),  # the lowest rank is the best; the unranked one is out of the field
        ([2, 0, 3], True, 5 / 10),  # or in it
        ([0, 1, 0], False, 1.0),  # alone: certain
        ([0, 1, 0], True, 3 / 10),
        ([0, 0, 0], True, 1.0),
    ],
)
def test_top_1_by_hand(rank: list[int], below: bool, likelihood: float):
    loss = top_1(rows(LOG), torch.tensor([rank]), torch.ones(1, 3, dtype=torch.bool), below)
    assert loss.item() == pytest.approx(-math.log(likelihood))


@pytest.mark.parametrize("below", [False, True])
def test_top_1_equals_the_cross_entropies_of_the_best(below: bool):
    """Each of the best against the whole field, by torch's own softmax loss."""
    scores, rank, mask = random_rankings(3)
    expected = []
    for s, r, m in zip(scores, rank.tolist(), mask.tolist()):
        field = [k for k in range(6) if m[k] and (r[k] or below)]
        first = min((r[k] for k in field if r[k]), default=0)
        best = [i for i, k in enumerate(field) if first and r[k] == first]
        loss = torch.nn.functional.cross_entropy
        expected.append(sum(float(loss(s[field], torch.tensor(i))) for i in best))
    assert sum(e > 0 for e in expected) > 30
    assert torch.allclose(top_1(scores, rank, mask, below), rows(expected)[0])


@pytest.mark.parametrize("loss", [plackett_luce, bradley_terry, top_1])
def test_scores_are_free_up_to_a_constant_per_prompt(loss):
    scores, rank, mask = random_rankings(2)
    moved = loss(scores + torch.randn(50, 1, dtype=torch.float64) * 10, rank, mask)
    assert torch.allclose(moved, loss(scores, rank, mask))


@pytest.mark.parametrize("loss", [plackett_luce, bradley_terry, top_1])
@pytest.mark.parametrize("rank", [[0, 0, 0], [0, 2, 0]])
def test_a_group_that_says_nothing_has_a_zero_loss_and_a_zero_gradient(loss, rank: list[int]):
    scores = rows(LOG, LOG).requires_grad_()
    value = loss(scores, torch.tensor([rank, [1, 2, 3]]), torch.tensor([[True] * 3, [False] * 3]))
    value.sum().backward()
    assert value.tolist() == [0, 0]
    assert scores.grad.tolist() == [[0] * 3] * 2


def test_plackett_luce_survives_far_scores():
    scores = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = plackett_luce(scores, torch.tensor([[2, 1, 3]]), torch.ones(1, 3, dtype=torch.bool))
    loss.sum().backward()
    assert loss.item() == pytest.approx(2e4)
    assert scores.grad.tolist() == [[1, -1, 0]]


def test_pairs_by_hand():
    pair = pairs(torch.tensor([[1, 2, 1, 0, 3]]), torch.tensor([[True] * 4 + [False]]))
    assert pair[0].nonzero().tolist() == [[0, 1], [2, 1]]


# ---- what is sampled from


def probabilities(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """The distribution sampled from, by loops over tokens in order of probability."""
    worth = [math.exp(x / temperature) for x in logits]
    order = sorted(range(len(worth)), key=lambda i: -worth[i])[: top_k or None]
    mass = sum(worth[i] for i in order)
    kept, so_far = [], 0.0
    for i in order:
        if so_far >= top_p:
            break
        kept.append(i)
        so_far += worth[i] / mass
    return [worth[i] / sum(worth[j] for j in kept) if i in kept else 0.0 for i in range(len(worth))]


SHAPES = [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.6), (1.5, 4, 0.8), (0.5, 99, 0.999)]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SHAPES)
def test_shaped_and_chosen_equal_the_loops(temperature: float, top_k: int, top_p: float):
    logits = 2 * torch.randn(20, 7, dtype=torch.float64)
    p = rows(*(probabilities(x, temperature, top_k, top_p) for x in logits.tolist()))
    assert torch.allclose(shaped(logits, temperature, top_k, top_p).softmax(-1), p)
    tokens = p.multinomial(1)[:, 0]
    logprobs, kept = chosen_logprobs(logits, tokens, temperature, top_k, top_p)
    assert torch.allclose(logprobs, p.gather(1, tokens[:, None])[:, 0].log())
    assert torch.allclose(entropy(kept), -(p * p.clamp(min=1e-300).log()).sum(1))


def test_top_p_keeps_the_token_that_crosses():
    kept = shaped(rows([0.5, 0.3, 0.2]).log(), top_p=0.6)[0].isfinite().tolist()
    assert kept == [True, True, False]
    assert shaped(rows([0.5, 0.3, 0.2]).log(), top_p=0.01)[0].isfinite().tolist() == [True, False, False]


def test_a_token_that_left_the_support_has_a_finite_logprob_and_gradient():
    logits = rows([0.5, 0.3, 0.2]).log().requires_grad_()
    logprobs, _ = chosen_logprobs(logits, torch.tensor([2]), top_k=1)
    logprobs.sum().backward()
    assert logprobs.item() == pytest.approx(math.log(0.2 / 0.7))
    assert torch.allclose(logits.grad, rows([-0.5 / 0.7, 0, 1 - 0.2 / 0.7]))


# ---- advantages


def gae_by_loops(reward: list[float], value: list[float], gamma: float, lam: float) -> list[float]:
    """The double sum of arXiv 1506.02438, equation 16, with V = 0 after the last token."""
    after = [*value[1:], 0.0]
    delta = [r + gamma * a - v for r, a, v in zip(reward, after, value)]
    return [sum((gamma * lam) ** (i - t) * delta[i] for i in range(t, len(delta))) for t in range(len(delta))]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.99, 0.0)])
def test_gae_equals_the_double_sum(gamma: float, lam: float):
    lengths = [1, 6, 3, 0, 5]
    reward, value = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    mask = torch.tensor([[t < n for t in range(6)] for n in lengths])
    advantage, returns = gae(reward, value, mask, gamma, lam)
    for row, n in enumerate(lengths):
        expected = gae_by_loops(reward[row, :n].tolist(), value[row, :n].tolist(), gamma, lam)
        assert advantage[row].tolist() == pytest.approx(expected + [0.0] * (6 - n))
        assert returns[row, :n].tolist() == pytest.approx([a + v for a, v in zip(expected, value[row].tolist())])
        assert returns[row, n:].tolist() == [0.0] * (6 - n)


def test_gae_with_lambda_one_is_the_return_minus_the_value():
    reward, value = rows([0.1, 0.2, 0.3]), rows([1.0, 2.0, 3.0])
    advantage, returns = gae(reward, value, torch.ones(1, 3, dtype=torch.bool), 1.0, 1.0)
    assert returns[0].tolist() == pytest.approx([0.6, 0.5, 0.3])
    assert advantage[0].tolist() == pytest.approx([-0.4, -1.5, -2.7])


def test_whiten_is_over_the_kept_entries_of_the_whole_batch():
    x = rows([1.0, 3.0, 1e6], [-1e6, 5.0, 7.0])
    mask = torch.tensor([[True, True, False], [False, True, True]])
    s = math.sqrt(5)  # of 1, 3, 5, 7 around 4
    expected = rows([-3 / s, -1 / s, 0], [0, 1 / s, 3 / s])
    assert torch.allclose(whiten(x, mask), expected, atol=1e-6)
    assert whiten(x, mask & (x == 1.0)).tolist() == [[0] * 3] * 2  # one value has no spread


# ---- KL


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative():
    policy, reference = rows([0.5, 0.3, 0.2])[0], rows([0.2, 0.2, 0.6])[0]
    exact = sum(p * math.log(p / q) for p, q in zip(policy.tolist(), reference.tolist()))
    for estimator in (k1, k3):
        assert (policy * estimator(policy.log(), reference.log())).sum().item() == pytest.approx(exact)
    assert (k3(policy.log(), reference.log()) >= 0).all()
    assert k3(rows([-1.0])[0], rows([-1000.0])[0]).isfinite().all()
