"""Some rows of a Batch as a new Batch: micro-batches, minibatches and the shares of processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tropism.tensors.batch import Batch


def take_rows(batch: Batch, rows: Sequence[int]) -> Batch:
    """The Batch of only these rows; completions and groups get new numbers. All rows are the batch itself."""
    if [*rows] == [*range(len(batch.tokens_BT))]:
        return batch
    width = batch.tokens_BT.shape[1]
    index = torch.as_tensor(list(rows), device=batch.tokens_BT.device)
    owner_B = batch.completion_BT[index]
    keep_N = torch.zeros(batch.n, dtype=torch.bool, device=index.device)
    keep_N[owner_B[owner_B >= 0]] = True
    empty = torch.isin(batch.last_N // width, index)  # completions without a token, which have no column
    keep_N |= empty & (torch.bincount(batch.completion_BT[batch.completion_BT >= 0], minlength=batch.n) == 0)
    number_N = keep_N.cumsum(0) - 1
    row_of = torch.full((batch.tokens_BT.shape[0],), -1, dtype=torch.long, device=index.device)
    row_of[index] = torch.arange(len(index), device=index.device)
    groups, group_N = batch.group_N[keep_N].unique(return_inverse=True)
    last_N = batch.last_N[keep_N]
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            fields[field.name] = value[index] if field.name.endswith("_BT") else value[keep_N]
    fields["completion_BT"] = torch.where(owner_B >= 0, number_N[owner_B.clamp(min=0)], -1)
    fields["group_N"] = group_N
    fields["last_N"] = row_of[last_N // width] * width + last_N % width
    fields["ids"] = tuple(batch.ids[int(g)] for g in groups)
    return batch.replace(**fields)


def passes(batch: Batch, tokens: int) -> list[list[int]]:
    """Row numbers in runs of at most `tokens` tokens (0 = everything in one pass).

    A run has at least one group, and all rows of its groups: a group may be one term of a loss.
    """
    rows, width = batch.tokens_BT.shape
    if not tokens:
        return [list(range(rows))]
    goes_on = set(_goes_on(batch).tolist())
    starts = [row for row in range(rows) if row not in goes_on]
    runs: list[list[int]] = []
    for start, end in zip(starts, [*starts[1:], rows]):
        if runs and (len(runs[-1]) + end - start) * width <= tokens:
            runs[-1] += range(start, end)
        else:
            runs.append(list(range(start, end)))
    return runs


def _goes_on(batch: Batch) -> Tensor:
    """The rows with more completions of the same group as the row before."""
    row_N = batch.last_N // batch.tokens_BT.shape[1]
    first_G = torch.full((len(batch.ids),), len(batch.tokens_BT), device=row_N.device)
    first_G = first_G.scatter_reduce(0, batch.group_N, row_N, "amin")
    return row_N[row_N > first_G[batch.group_N]]
