"""The batch is a forest of tokens: in each group the prompt stands once, followed by its K completions.

Axes: B rows, T tokens of a row, N completions of the batch, G groups, K completions of a group. A tensor's name ends in
its axes. Every token attends to its ancestors only and its position is its depth, so K completions of one prompt cost the
prompt once. `parent_BT` is the column whose hidden state predicts the token.

Rules the types carry: column t speaks about token t (its id, its log-probability, the value of the state it was chosen
in, its advantage). True means keep, in every mask. Missing is None, and asking for it names the stage to run first.
Totals and counts travel as `Ratio`: never average averages.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tropism.types import TropismError

Layout = Literal["auto", "shared", "padded"]  # of a batch: completions that share a row, or a row each


@dataclass(frozen=True, slots=True)
class Ratio:
    """A sum and what it is to be divided by, once, after everything has been added up (micro-batches, ranks)."""

    total: Tensor
    count: Tensor

    def __add__(self, other: Ratio) -> Ratio:
        return Ratio(self.total + other.total, self.count + other.count)

    def detach(self) -> Ratio:
        return Ratio(self.total.detach(), self.count.detach())

    @property
    def value(self) -> float:
        """total / count; NaN if nothing was counted."""
        count = float(self.count)
        return float(self.total.detach()) / count if count else float("nan")


@dataclass(frozen=True, slots=True)
class Tree:
    """One group as tokens: the prompt once, its K completions, and what is known of each.

    `trained[k][i]` is True where token i of completion k was chosen by the policy (and is trained on). `ended[k]` is
    False for an answer cut at the length limit. A `reward` of None could not be computed; a `rank` of 0 is unranked.
    """

    id: str
    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    trained: tuple[tuple[bool, ...], ...]
    ended: tuple[bool, ...]
    logprobs: tuple[tuple[float, ...], ...] | None = None
    reward: tuple[float | None, ...] | None = None
    rank: tuple[int, ...] | None = None
    baseline: float | None = None  # mean reward of all samples of the prompt, of which these are some

    @property
    def size(self) -> int:
        return len(self.prompt) + sum(map(len, self.completions))


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows of whole groups (see the head of this file). Optional fields are None until someone fills them."""

    tokens_BT: Tensor  # token ids; 0 where padding
    position_BT: Tensor  # depth in the tree; each padding token is a root of its own
    parent_BT: Tensor  # column that predicts this token; -1 = nothing does
    completion_BT: Tensor  # index into N; -1 = prompt or padding
    loss_mask_BT: Tensor  # True = chosen by the policy and trained on
    group_N: Tensor  # index into G
    last_N: Tensor  # flat index (row * T + column) of each completion's last token
    ended_N: Tensor  # True = stopped by itself, False = cut at the length limit
    ids: tuple[str, ...]  # G group ids, for messages
    shared: bool = True  # False = one completion a row
    scored_N: Tensor | None = None  # True = reward_N holds a reward
    reward_N: Tensor | None = None  # judge's units
    rank_N: Tensor | None = None  # 1 best, ties share, 0 unranked
    old_logprobs_BT: Tensor | None = None  # nats, under the policy that sampled
    ref_logprobs_BT: Tensor | None = None  # nats, under the reference
    values_BT: Tensor | None = None  # the critic before the update, reward units
    baseline_N: Tensor | None = None  # what a completion is measured against; from the tree, or written by credit
    advantages_BT: Tensor | None = None  # reward units; written only by credit
    returns_BT: Tensor | None = None  # reward units; written only by credit

    def replace(self, **fields: Any) -> Batch:
        return dataclasses.replace(self, **fields)

    def need(self, name: str) -> Tensor:
        """The optional field `name`, or an error that says who should have filled it."""
        value = getattr(self, name)
        if value is None:
            raise TropismError(f"batch.{name} is missing: {_FILLED_BY.get(name, 'collate')} fills it")
        return value

    @property
    def n(self) -> int:
        return len(self.group_N)

    @property
    def layout(self) -> Layout:
        return "shared" if self.shared else "padded"

    def to(self, device: torch.device | str) -> Batch:
        moved = {
            f.name: value.to(device)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return self.replace(**moved)


_FILLED_BY = {
    "reward_N": "the judge of the rl stage",
    "scored_N": "the judge of the rl stage",
    "rank_N": "the label stage",
    "old_logprobs_BT": "the engine, while sampling,",
    "ref_logprobs_BT": "the loop, for an algorithm whose `needs` names it,",
    "values_BT": "the loop, for an algorithm whose `needs` names it,",
    "baseline_N": "the algorithm's `credit`",
    "advantages_BT": "the algorithm's `credit`",
    "returns_BT": "the algorithm's `credit`",
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the models say of a batch. Columns without a trained token hold 0."""

    logprobs_BT: Tensor | None = None  # nats
    entropy_BT: Tensor | None = None  # nats, without gradient
    values_BT: Tensor | None = None  # reward units
    scores_N: Tensor | None = None  # reward model's units, at each completion's last token
    scores_BT: Tensor | None = None  # reward model's units, of everything up to and including this token

    def need(self, name: str) -> Tensor:
        value = getattr(self, name)
        if value is None:
            raise TropismError(f"prediction.{name} is missing: name it in the algorithm's `predicts`")
        return value


def pack(sizes: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Indices of `sizes` in rows of about `row_tokens` and of like length: largest first, into the emptiest row.

    Balanced rows waste next to nothing when they are padded to the longest. No row is asked to be shorter than the
    largest size (`row_tokens` 0: as long as that).
    """
    rows = max(1, -(-sum(sizes) // max(row_tokens, *sizes, 1)))
    packed: list[list[int]] = [[] for _ in range(rows)]
    fill = [(0, row) for row in range(rows)]
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        used, row = heapq.heappop(fill)
        packed[row].append(index)
        heapq.heappush(fill, (used + sizes[index], row))
    return packed


def collate(trees: Sequence[Tree], row_tokens: int = 0, shared: bool = True, twins: bool = False) -> Batch:
    """Lays trees out as a Batch. Rows hold about `row_tokens` tokens (0: as many as the largest tree needs).

    With `shared` False every completion gets a row of its own with a copy of its prompt: for models that cannot take a
    tree mask, for long answers, and the yardstick the shared layout is tested against. With `twins` a completion that
    reads like an earlier one of its group owns no tokens and ends where that one ends: for models that only score, the
    same scores and gradients for less work.
    """
    if not trees:
        raise TropismError("an empty batch cannot be collated: give at least one group")
    bins, width, own = _arranged(trees, row_tokens, shared, twins)
    first = [0, *itertools.accumulate(len(tree.completions) for tree in trees)]  # completion of each tree in the batch
    tokens, position, parent, completion, mask, old = ([] for _ in range(6))
    last = [0] * first[-1]
    have_old = all(tree.logprobs is not None for tree in trees)
    for b, row in enumerate(bins):
        r_tokens: list[int] = []
        r_position: list[int] = []
        r_parent: list[int] = []
        r_completion: list[int] = []
        r_mask: list[bool] = []
        r_old: list[float] = []
        for t, ks in row:
            tree = trees[t]
            start, depth = len(r_tokens), len(tree.prompt)
            r_tokens += tree.prompt
            r_position += range(depth)
            r_parent += [-1, *range(start, start + depth - 1)] if depth else []
            r_completion += [-1] * depth
            r_mask += [False] * depth
            r_old += [0.0] * depth
            for k in ks:
                answer = tree.completions[k]
                begin, length = len(r_tokens), len(answer)
                r_tokens += answer
                r_position += range(depth, depth + length)
                r_parent += [start + depth - 1 if depth else -1, *range(begin, begin + length - 1)] if length else []
                r_completion += [first[t] + k] * length
                r_mask += tree.trained[k]
                r_old += tree.logprobs[k] if have_old and tree.logprobs else [0.0] * length
                last[first[t] + k] = b * width + (begin + length - 1 if length else start + max(depth - 1, 0))
        gap = width - len(r_tokens)
        tokens.append(r_tokens + [0] * gap)
        position.append(r_position + [0] * gap)
        parent.append(r_parent + [-1] * gap)
        completion.append(r_completion + [-1] * gap)
        mask.append(r_mask + [False] * gap)
        old.append(r_old + [0.0] * gap)
    last = [last[first[t] + k] for t in range(len(trees)) for k in own[t]]

    rewards = [tree.reward for tree in trees]
    ranks = [tree.rank for tree in trees]
    reward_N = scored_N = rank_N = baseline_N = None
    if all(r is not None for r in rewards):
        flat = [x for r in rewards for x in r or ()]
        scored_N = torch.tensor([x is not None for x in flat], dtype=torch.bool)
        reward_N = torch.tensor([0.0 if x is None else x for x in flat])
    if all(r is not None for r in ranks):
        rank_N = torch.tensor([x for r in ranks for x in r or ()], dtype=torch.long)
    if all(tree.baseline is not None for tree in trees):
        baseline_N = torch.tensor([tree.baseline or 0.0 for tree in trees for _ in tree.completions])
    return Batch(
        tokens_BT=torch.tensor(tokens, dtype=torch.long),
        position_BT=torch.tensor(position, dtype=torch.long),
        parent_BT=torch.tensor(parent, dtype=torch.long),
        completion_BT=torch.tensor(completion, dtype=torch.long),
        loss_mask_BT=torch.tensor(mask, dtype=torch.bool) & (torch.tensor(parent) >= 0),
        group_N=torch.tensor([t for t, tree in enumerate(trees) for _ in tree.completions], dtype=torch.long),
        last_N=torch.tensor(last, dtype=torch.long),
        ended_N=torch.tensor([e for tree in trees for e in tree.ended], dtype=torch.bool),
        ids=tuple(tree.id for tree in trees),
        shared=shared,
        scored_N=scored_N,
        reward_N=reward_N,
        rank_N=rank_N,
        baseline_N=baseline_N,
        old_logprobs_BT=torch.tensor(old) if have_old else None,
    )


def shape(trees: Sequence[Tree], row_tokens: int, shared: bool, twins: bool) -> tuple[int, int]:
    """(rows, tokens of a row) of the Batch that `collate` would make of the same."""
    bins, width, _ = _arranged(trees, row_tokens, shared, twins)
    return len(bins), width


def _arranged(
    trees: Sequence[Tree], row_tokens: int, shared: bool, twins: bool
) -> tuple[list[list[tuple[int, list[int]]]], int, list[list[int]]]:
    """What stands in each row, as (tree, its completions there); how wide rows are; each tree's `_own`."""
    own = [_own(tree, twins) for tree in trees]
    laid = [[k for k, o in enumerate(alike) if o == k] for alike in own]
    pieces = [(t, some) for t, ks in enumerate(laid) for some in ([ks] if shared else [[k] for k in ks])]
    sizes = [len(trees[t].prompt) + sum(len(trees[t].completions[k]) for k in ks) for t, ks in pieces]
    bins = pack(sizes, row_tokens) if shared else [[i] for i in range(len(pieces))]
    width = max((sum(sizes[i] for i in row) for row in bins), default=0)
    return [[pieces[i] for i in row] for row in bins], width, own


def _own(tree: Tree, twins: bool) -> list[int]:
    """For each completion the first one that reads the same, or itself without `twins`."""
    if not twins:
        return list(range(len(tree.completions)))
    seen: dict[tuple[int, ...], int] = {}
    return [seen.setdefault(tokens, k) for k, tokens in enumerate(tree.completions)]


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
    """(L, N) values at each completion's 1st, 2nd … trained token, a shorter one standing by its last; (N,) lengths.

    Completions that were laid out once share their columns.
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
    """(B, T): at each of a completion's columns the mean of x over its trained tokens up to and including this one.

    0 where there are none yet, and in every other column.
    """
    flat = torch.arange(x_BT.numel(), device=x_BT.device)
    completion = batch.completion_BT.flatten()
    inside = completion >= 0
    first_N = flat.new_zeros(batch.n).scatter_reduce(0, completion[inside], flat[inside], "amin", include_self=False)
    start_BT = first_N[batch.completion_BT.clamp(min=0)]

    def since_start(y_BT: Tensor) -> Tensor:  # a completion's columns stand side by side in one row
        sum_BT = y_BT.cumsum(1)
        return sum_BT - (sum_BT - y_BT).flatten()[start_BT]

    kept_BT = torch.where(batch.loss_mask_BT, x_BT, 0.0)
    mean_BT = since_start(kept_BT) / since_start(batch.loss_mask_BT.long()).clamp(min=1)
    return torch.where(batch.completion_BT >= 0, mean_BT, 0.0)


def by_group(x_N: Tensor, group_N: Tensor) -> tuple[Tensor, Tensor]:
    """(G, K) values of each group's completions, 0 beyond its last, and the (G, K) mask of the real ones."""
    groups = int(group_N.max()) + 1
    counts = torch.bincount(group_N, minlength=groups)
    start = counts.cumsum(0) - counts
    column = torch.arange(len(group_N), device=group_N.device) - start[group_N]
    x_GK = x_N.new_zeros(groups, int(counts.max())).index_put((group_N, column), x_N)
    mask_GK = torch.arange(x_GK.shape[1], device=group_N.device) < counts[:, None]
    return x_GK, mask_GK


def total(ratios: Iterable[dict[str, Ratio]]) -> dict[str, Ratio]:
    """Adds up metrics of the same names."""
    out: dict[str, Ratio] = {}
    for item in ratios:
        for name, ratio in item.items():
            out[name] = out[name] + ratio if name in out else ratio
    return out


def take_rows(batch: Batch, rows: Sequence[int]) -> Batch:
    """The Batch of only these rows; completions and groups are numbered anew."""
    width = batch.tokens_BT.shape[1]
    index = torch.as_tensor(list(rows), device=batch.tokens_BT.device)
    owner_B = batch.completion_BT[index]
    keep_N = torch.zeros(batch.n, dtype=torch.bool, device=index.device)
    keep_N[owner_B[owner_B >= 0]] = True
    empty = torch.isin(batch.last_N // width, index)  # completions without a token, which own no column
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

    A run holds at least one group, and all rows of each of its groups: a group may be one term of a loss.
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
    """The rows that hold more completions of the group of the row before."""
    row_N = batch.last_N // batch.tokens_BT.shape[1]
    first_G = torch.full((len(batch.ids),), len(batch.tokens_BT), device=row_N.device)
    first_G = first_G.scatter_reduce(0, batch.group_N, row_N, "amin")
    return row_N[row_N > first_G[batch.group_N]]
