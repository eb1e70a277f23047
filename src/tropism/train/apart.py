"""A pass over some groups: its loss, and what puts the gradient of it into the models.

A group that is larger than a pass is computed in parts, some of its rows at a time, for any loss, also one of the whole
group. With predictions y of the models (log-probabilities, values, scores) and weights w

    1. y of every part, without a graph
    2. the loss of all y, and g = d loss / d y
    3. y of every part again, with a graph; the gradient is that of Σ g y, as d loss / d w = Σ g (d y / d w)

So memory is that of one part, for one more forward pass (gradient caching, arXiv 2101.06983).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from tropism.protocols import Algorithm
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.ratio import Ratio
from tropism.tensors.rows import take_rows

Predict = Callable[[Batch], Prediction]
Learn = Callable[[], None]


def computed(
    algorithm: Algorithm, batch: Batch, predict: Predict, tokens: int
) -> tuple[Ratio, dict[str, Ratio], Learn]:
    """The loss of a batch, its metrics, and a function that adds its gradient to the models. `tokens` limits those of a
    forward pass (0: no limit); it has one row at least."""
    rows, width = batch.tokens_BT.shape
    step = max(1, tokens // width) if tokens else rows
    if step >= rows:
        loss, metrics = algorithm.loss(batch, predict(batch))
        return loss.detach(), metrics, lambda: _backward(loss.total)
    parts = [list(range(i, min(i + step, rows))) for i in range(0, rows, step)]
    with torch.no_grad():
        seen = [predict(take_rows(batch, part)) for part in parts]
    given = {f.name: _joined([getattr(s, f.name) for s in seen]) for f in dataclasses.fields(Prediction)}
    leaves = {n: x.requires_grad_() for n, x in given.items() if x is not None and n not in ("scores_N", "entropy_BT")}
    if "scores_BT" in leaves:
        given["scores_N"] = leaves["scores_BT"].flatten()[batch.last_N]
    loss, metrics = algorithm.loss(batch, Prediction(**given))

    def learn() -> None:
        if not loss.total.requires_grad:
            return
        slopes = dict(zip(leaves, torch.autograd.grad(loss.total, [*leaves.values()], allow_unused=True)))
        for part in parts:
            found = predict(take_rows(batch, part))
            given = [(getattr(found, name), slope[part]) for name, slope in slopes.items() if slope is not None]
            _backward(torch.stack([(x * slope).sum() for x, slope in given]).sum())

    return loss.detach(), metrics, learn


def _backward(total: Tensor) -> None:
    if total.requires_grad:
        total.backward()


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """Rows of parts under each other; None if there are none, or if they are no rows (`scores_N`)."""
    found = [x for x in parts if x is not None]
    return torch.cat(found) if found else None
