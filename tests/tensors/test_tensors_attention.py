"""The compiled attention and its gradients against dense attention in double precision, written out here."""

from __future__ import annotations

import math
import random
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from tropism.tensors.attention import Units, attention

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
Groups = list[tuple[int, list[int]]]  # the tokens of a prompt, and of its answers


def units(groups: Groups) -> Units:
    """Prompts with their first answers come first, then all other answers."""
    heads = [prompt + answers[0] for prompt, answers in groups]
    begins, first = [], []
    for size in heads:
        begins.append(len(first))
        first += [len(first)] * size
    found = []
    for begin, size, (prompt, answers) in zip(begins, heads, groups):
        found.append((begin, size, prompt, len(first), sum(answers[1:])))
        for n in answers[1:]:
            first += [len(first)] * n
    return Units(torch.tensor(found), torch.tensor(first))


def seen(groups: Groups) -> tuple[Tensor, Tensor]:
    """(M, M) whether a query sees a key, and how far it is away, from the paths of all answers."""
    tokens, begins, at = sum(p + sum(answers) for p, answers in groups), [], 0
    for prompt, answers in groups:
        begins.append(at)
        at += prompt + answers[0]
    sees, apart = torch.zeros(tokens, tokens, dtype=torch.bool), torch.zeros(tokens, tokens)
    for begin, (prompt, answers) in zip(begins, groups):
        paths = [range(begin, begin + prompt + answers[0])]
        for n in answers[1:]:
            paths.append([*range(begin, begin + prompt), *range(at, at + n)])  # type: ignore[arg-type]
            at += n
        for path in paths:
            for i, query in enumerate(path):
                keys = torch.tensor(path[: i + 1])
                sees[query, keys], apart[query, keys] = True, i - torch.arange(i + 1.0)
    return sees, apart


def dense(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, groups: Groups, scale: float, window: int = 0,
    softcap: float = 0.0, slopes_H: Tensor | None = None,
) -> Tensor:  # fmt: skip
    sees, apart = seen(groups)
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if slopes_H is not None:
        scores = scores - slopes_H[:, None, None].double() * apart
    if window:
        sees = sees & (apart < window)
    scores = scores.masked_fill(~sees, -math.inf)
    if sinks is not None:
        scores = torch.cat((scores, sinks[:, None, None].expand(-1, len(q), 1)), -1)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1)[..., : len(q)], v)


def compare(groups: Groups, heads: tuple[int, int], sizes: tuple[int, int], sinks: bool, **options: Any) -> None:
    """Outputs, and gradients of their sum with random weights; keys have heads[1] heads, values the size sizes[1]."""
    tokens = sum(p + sum(answers) for p, answers in groups)
    given = [torch.randn(tokens, h, s) for h, s in zip((*heads, heads[1]), (*sizes[:1] * 2, sizes[1]))]
    given += [torch.randn(heads[0])] if sinks else []
    singles = [x.clone().requires_grad_() for x in given]
    doubles = [x.double().requires_grad_() for x in given]
    scale = 1.3 * sizes[0] ** -0.5
    (q, k, v, *sink), (q2, k2, v2, *sink2) = singles, doubles
    made = attention(q, k, v, units(groups), scale, sinks_H=sink[0] if sinks else None, **options)
    expected = dense(q2, k2, v2, sink2[0] if sinks else None, groups, scale, **options)
    torch.testing.assert_close(made.double(), expected, atol=3e-6, rtol=3e-6)
    slope = torch.randn_like(made)
    found = torch.autograd.grad(made, singles, slope)
    for one, other in zip(found, torch.autograd.grad(expected, doubles, slope.double())):
        torch.testing.assert_close(one.double(), other, atol=4e-6 * float(other.abs().max()) + 4e-6, rtol=1e-5)


@pytest.mark.parametrize("seed", range(30))
def test_random_forests_with_random_options(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    groups = [
        (rng.randint(0, 70), [rng.randint(1, 70) for _ in range(rng.randint(1, 5))]) for _ in range(rng.randint(1, 4))
    ]
    shared = rng.choice((1, 1, 2, 3))
    kv_heads = rng.randint(1, 2)
    size = rng.choice((4, 16, 20, 32, 48, 64, 80))
    compare(
        groups,
        (kv_heads * shared, kv_heads),
        (size, rng.choice((size, 24))),
        rng.random() < 0.4,
        window=rng.choice((0, 0, 1, 9, 40)),
        softcap=rng.choice((0.0, 0.0, 1.5)),
        slopes_H=torch.rand(kv_heads * shared) if rng.random() < 0.3 else None,
    )


@pytest.mark.parametrize(
    "option", [{}, {"window": 5}, {"softcap": 0.7}, {"slopes_H": torch.tensor([0.5, 0.03])}, {"sinks": True}], ids=str
)
def test_each_option_alone(option: dict[str, Any]) -> None:
    torch.manual_seed(1)
    compare([(30, [50, 7, 33]), (0, [1]), (3, [2, 2])], (2, 1), (32, 32), **{"sinks": False, **option})


def test_small_answers_share_tiles_with_others() -> None:
    torch.manual_seed(2)
    compare([(5, [4, 3, 1, 1, 6, 2] * 10)], (1, 1), (16, 16), False)


@pytest.mark.parametrize("size", [96, 128, 256])
def test_large_heads_and_more_keys_than_a_step(size: int) -> None:
    torch.manual_seed(3)
    compare([(150, [100, 90])], (1, 1), (size, size), False)


def test_scores_that_differ_by_hundreds_stay_finite() -> None:
    torch.manual_seed(4)
    q, k, v = (torch.randn(90, 1, 16) * x for x in (60, 60, 1))
    groups: Groups = [(40, [20, 30])]
    made = attention(q, k, v, units(groups), 0.25)
    expected = dense(q.double(), k.double(), v.double(), None, groups, 0.25)
    torch.testing.assert_close(made.double(), expected, atol=2e-3, rtol=1e-3)  # a score of 4000 has 2e-4 of rounding
    assert float(made.abs().max()) <= float(v.abs().max()) * (1 + 1e-6)


def test_heads_that_lie_apart_in_memory() -> None:
    """As in a product that makes queries, keys and values at once."""
    torch.manual_seed(5)
    groups: Groups = [(9, [8, 7])]
    both = torch.randn(24, 3, 2, 16).requires_grad_()
    q, k, v = both.unbind(1)
    made = attention(q, k, v, units(groups), 0.25)
    (found,) = torch.autograd.grad(made, both, torch.ones_like(made))
    twice = both.detach().double().requires_grad_()
    q, k, v = twice.unbind(1)
    expected = dense(q, k, v, None, groups, 0.25)
    (wanted,) = torch.autograd.grad(expected, twice, torch.ones_like(expected))
    torch.testing.assert_close(made.double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.double(), wanted, atol=3e-6, rtol=1e-5)


def test_the_number_of_threads_changes_no_bit() -> None:
    torch.manual_seed(6)
    groups: Groups = [(40, [70, 30, 9]), (7, [8, 8, 8]), (0, [33]), (90, [12, 1])]
    plan = units(groups)
    q, k, v = (torch.randn(len(plan.first_M), h, 16).requires_grad_() for h in (4, 2, 2))
    slope = torch.randn(len(plan.first_M), 4, 16)

    def run() -> list[Tensor]:
        made = attention(q, k, v, plan, 0.25, softcap=3.0)
        return [made, *torch.autograd.grad(made, (q, k, v), slope)]

    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(run())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other))
