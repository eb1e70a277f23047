"""From columns to completions and groups: sums, lengths, running means, and the mask of a tree.

Axes as in `tensors/batch.py`; L is the longest completion's number of trained tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tropism.tensors.batch import Batch


def tree_mask(batch: Batch) -> Tensor:
    """(B, 1, T, T), True where the query (third axis) may look at the key: its ancestors and itself."""
    group_BT = (batch.position_BT == 0).cumsum(1)
    same_group = group_BT[:, :, None] == group_BT[:, None, :]
    key_completion = batch.completion_BT[:, None, :]
    on_path = (key_completion == -1) | (key_completion == batch.completion_BT[:, :, None])
    width = batch.tokens_BT.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=batch.tokens_BT.device).tril()
    return (same_group & on_path & causal)[:, None]


def sum_by_completion(x_BT: Tensor, batch: Batch) -> Tensor:
    """(N,): the sum over each completion's trained tokens."""
    keep = batch.loss_mask_BT
    zero = torch.zeros(batch.n, dtype=x_BT.dtype, device=x_BT.device)
    return zero.index_add(0, batch.completion_BT[keep], x_BT[keep])


def length_N(batch: Batch) -> Tensor:
    """(N,): how many trained tokens each completion has."""
    return sum_by_completion(torch.ones_like(batch.tokens_BT, dtype=torch.float32), batch)


def by_completion(batch: Batch) -> tuple[Tensor, Tensor]:
    """(N, L) flat indices of each completion's trained tokens in order, and the (N, L) mask of the real ones."""
    flat = batch.loss_mask_BT.flatten().nonzero()[:, 0]
    owner = batch.completion_BT.flatten()[flat]
    order = torch.argsort(owner, stable=True)
    flat, owner = flat[order], owner[order]
    counts = torch.bincount(owner, minlength=batch.n)
    start = counts.cumsum(0) - counts
    column = torch.arange(len(flat), device=flat.device) - start[owner]
    length = int(counts.max()) if len(counts) else 0
    index_NL = torch.zeros(batch.n, length, dtype=torch.long, device=flat.device)
    index_NL[owner, column] = flat
    mask_NL = torch.arange(length, device=flat.device) < counts[:, None]
    return index_NL, mask_NL


def running(x_BT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(L, N) values at each completion's 1st, 2nd … trained token (a shorter one repeats its last value); (N,) lengths.

    Twins, which have their tokens only once in the batch, share these columns.
    """
    index_NL, mask_NL = by_completion(batch)
    own_N = batch.completion_BT.flatten()[batch.last_N]
    own_N = torch.where(own_N >= 0, own_N, torch.arange(batch.n, device=own_N.device))
    index_NL, length_N = index_NL[own_N], mask_NL.sum(1)[own_N]
    step_L = torch.arange(index_NL.shape[1], device=index_NL.device)
    place_NL = torch.minimum(step_L, (length_N[:, None] - 1).clamp(min=0))
    at_NL = torch.where(length_N[:, None] > 0, index_NL.gather(1, place_NL), batch.last_N[:, None])
    return x_BT.flatten()[at_NL].T, length_N


def mean_so_far(x_BT: Tensor, batch: Batch) -> Tensor:
    """(B, T): at each column of a completion the mean of x over its trained tokens up to and including this one.

    0 before the first trained token, and in every other column.
    """
    flat = torch.arange(x_BT.numel(), device=x_BT.device)
    completion = batch.completion_BT.flatten()
    inside = completion >= 0
    first_N = flat.new_zeros(batch.n).scatter_reduce(0, completion[inside], flat[inside], "amin", include_self=False)
    start_BT = first_N[batch.completion_BT.clamp(min=0)]

    def since_start(y_BT: Tensor) -> Tensor:  # the columns of a completion are next to each other in one row
        sum_BT = y_BT.cumsum(1)
        return sum_BT - (sum_BT - y_BT).flatten()[start_BT]

    kept_BT = torch.where(batch.loss_mask_BT, x_BT, 0.0)
    mean_BT = since_start(kept_BT) / since_start(batch.loss_mask_BT.long()).clamp(min=1)
    return torch.where(batch.completion_BT >= 0, mean_BT, 0.0)


def by_group(x_N: Tensor, group_N: Tensor) -> tuple[Tensor, Tensor]:
    """(G, K) values of each group's completions, 0 after the last one, and the (G, K) mask of the real ones."""
    groups = int(group_N.max()) + 1
    counts = torch.bincount(group_N, minlength=groups)
    start = counts.cumsum(0) - counts
    column = torch.arange(len(group_N), device=group_N.device) - start[group_N]
    x_GK = x_N.new_zeros(groups, int(counts.max())).index_put((group_N, column), x_N)
    mask_GK = torch.arange(x_GK.shape[1], device=group_N.device) < counts[:, None]
    return x_GK, mask_GK
