"""Random forests of completions, twice: as the plain numbers a paper's equation is about, and as the Batch of the code.

`compare` sets an algorithm beside its equation, written out with one-number tensors, in value and in gradient.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tropism.protocols import Algorithm
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.ratio import Ratio
from tropism.tensors.tree import Tree

Numbers = list[list[float]]  # of each completion, one for each trained token, in order


@dataclass(frozen=True)
class Answer:
    """One completion as a paper sees it: of tokens that were not trained it knows nothing."""

    old: list[float]
    ref: list[float]
    value: list[float]
    reward: float | None
    rank: int
    ended: bool


def forest(seed: int = 0, prompt: int = 3, groups: int = 8) -> list[Tree]:
    """Groups of one to five completions with forced tokens, cut answers, scores that are missing, ranks that tie or are
    missing; the first has three equal rewards, the last no rank."""
    rng = random.Random(seed)
    trees = []
    for g in range(groups):
        lengths = [rng.randint(1, 6) for _ in range(rng.randint(1, 5) if g else 3)]
        trees.append(
            Tree(
                id=f"g{g}",
                prompt=(1,) * prompt,
                completions=tuple(tuple(rng.randint(1, 99) for _ in range(n)) for n in lengths),
                trained=tuple(tuple(rng.random() < 0.8 for _ in range(n)) for n in lengths),
                ended=tuple(rng.random() < 0.7 for _ in lengths),
                logprobs=tuple(tuple(-3 * rng.random() for _ in range(n)) for n in lengths),
                reward=tuple(None if rng.random() < 0.2 else rng.gauss(0, 1) for _ in lengths) if g else (0.5,) * 3,
                rank=tuple(rng.randint(0, 3) for _ in lengths) if g < groups - 1 else (0,) * len(lengths),
            )
        )
    return trees


def draw(trees: Sequence[Tree], seed: int) -> Numbers:
    """One random number for each trained token of each completion."""
    rng = random.Random(seed)
    return [[rng.gauss(0, 1) for keep in kept if keep] for t in trees for kept in t.trained]


def answers(trees: Sequence[Tree]) -> list[list[Answer]]:
    """The groups as numbers: the reference is .3 standard normals off the old log-probabilities, values are random."""
    ref, value, found = iter(draw(trees, 1)), iter(draw(trees, 2)), []
    for tree in trees:
        assert tree.logprobs
        assert tree.reward
        group = []
        for k, logprobs in enumerate(tree.logprobs):
            old = [x for x, keep in zip(logprobs, tree.trained[k]) if keep]
            near = [x + 0.3 * e for x, e in zip(old, next(ref))]
            rank = tree.rank[k] if tree.rank else 0
            group.append(Answer(old, near, next(value), tree.reward[k], rank, tree.ended[k]))
        found.append(group)
    return found


def _columns(batch: Batch) -> list[Tensor]:
    """Flat indices of each completion's trained tokens."""
    trained = batch.loss_mask_BT.flatten()
    return [((batch.completion_BT.flatten() == n) & trained).nonzero()[:, 0] for n in range(batch.n)]


def on_trained(batch: Batch, rows: Numbers, elsewhere: float = 0.0) -> Tensor:
    """(B, T) with these values on each completion's trained tokens, in order."""
    flat = torch.full((batch.tokens_BT.numel(),), elsewhere, dtype=torch.float64)
    for columns, row in zip(_columns(batch), rows, strict=True):
        flat[columns] = torch.tensor(row, dtype=torch.float64)
    return flat.view_as(batch.tokens_BT)


def off_trained(x_BT: Tensor, batch: Batch) -> Numbers:
    """The inverse of `on_trained`."""
    return [x_BT.flatten()[columns].tolist() for columns in _columns(batch)]


def filled(trees: Sequence[Tree], row_tokens: int = 0, shared: bool = True, elsewhere: float = 0.0) -> Batch:
    """The Batch of `answers`, in double precision; rubbish may stand `elsewhere`."""
    batch, flat = collate(trees, row_tokens, shared), [a for group in answers(trees) for a in group]
    return batch.replace(
        reward_N=torch.tensor([a.reward or 0.0 for a in flat], dtype=torch.float64),
        old_logprobs_BT=on_trained(batch, [a.old for a in flat], elsewhere),
        ref_logprobs_BT=on_trained(batch, [a.ref for a in flat], -elsewhere),
        values_BT=on_trained(batch, [a.value for a in flat], elsewhere),
    )


def gae_by_loops(reward: list[float], value: list[float], gamma: float, lam: float) -> tuple[list[float], list[float]]:
    """Advantages as the double sum of the paper, and returns."""
    ahead = [*value[1:], 0.0]
    delta = [r + gamma * v - before for r, v, before in zip(reward, ahead, value)]
    steps = range(len(reward))
    advantages = [sum((gamma * lam) ** (i - t) * delta[i] for i in steps if i >= t) for t in steps]
    return advantages, [a + v for a, v in zip(advantages, value)]


def close(found: Numbers, expected: Numbers, within: float = 1e-9) -> bool:
    return len(found) == len(expected) and all(f == pytest.approx(e, abs=within) for f, e in zip(found, expected))


Equation = Callable[[list[list[Answer]], list[list[list[Tensor]]], list[list[list[Tensor]]]], tuple[Any, float]]


def bonus(logprob: Tensor) -> Tensor:
    """What stands for a token's entropy, with a gradient."""
    return logprob**2 / 10


def run(
    algorithm: Algorithm, batch: Batch, new: Numbers, value: Numbers
) -> tuple[Ratio, Numbers, Numbers, dict[str, Ratio]]:
    """Credit and loss with rubbish beside the trained tokens, the loss's gradients to the log-probabilities and values,
    and metrics."""
    leaves = [on_trained(batch, x, 7.0).requires_grad_() for x in (new, value)]
    entropy = on_trained(batch, [[0.5] * len(row) for row in new], 9.0)
    prediction = Prediction(leaves[0], entropy, leaves[1], entropy_bonus_BT=bonus(leaves[0]))
    loss, metrics = algorithm.loss(algorithm.credit(batch), prediction)
    if loss.total.requires_grad:
        loss.total.backward()
    grads = []
    for leaf in leaves:
        grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        grads.append(off_trained(grad, batch))
        assert float(grad.abs().sum()) == pytest.approx(sum(abs(x) for row in grads[-1] for x in row))
    assert not any(r.total.requires_grad or r.count.requires_grad for r in metrics.values())
    return loss.detach(), grads[0], grads[1], metrics


def compare(algorithm: Algorithm, trees: Sequence[Tree], equation: Equation, slope: Equation | None = None) -> dict:
    """Fails unless the algorithm's total, count and gradients are those of `equation`; returns the metrics' values.

    `equation` gets the groups and, for each completion, its new log-probabilities and values as one-number tensors.
    `slope` has the gradient where that is not the value's own.
    """
    batch, groups = filled(trees, row_tokens=40), answers(trees)
    flat = [a for group in groups for a in group]
    new = [[x + 0.4 * e for x, e in zip(a.old, row)] for a, row in zip(flat, draw(trees, 3))]
    value = [[x + 0.4 * e for x, e in zip(a.value, row)] for a, row in zip(flat, draw(trees, 4))]
    loss, to_new, to_value, metrics = run(algorithm, batch, new, value)

    def worked(equation: Equation) -> tuple[Any, float, Numbers, Numbers]:
        leaves = [
            [[torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in r] for r in y] for y in (new, value)
        ]
        grouped = []
        for rows in leaves:
            it = iter(rows)
            grouped.append([[next(it) for _ in group] for group in groups])
        total, count = equation(groups, *grouped)
        total.backward()
        slopes = [[[float(x.grad or 0.0) for x in r] for r in rows] for rows in leaves]
        return total.item(), count, slopes[0], slopes[1]

    total, count, new_slope, value_slope = worked(equation)
    if slope is not None:
        _, _, new_slope, value_slope = worked(slope)
    assert float(loss.count) == count
    assert float(loss.total) == pytest.approx(total, rel=1e-6, abs=1e-9)
    assert close(to_new, new_slope, 1e-6)
    assert close(to_value, value_slope, 1e-6)
    return {name: ratio.value for name, ratio in metrics.items()}
