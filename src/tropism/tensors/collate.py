"""Trees → Batch: packs whole groups into rows of similar length, balanced by token count, or makes a row for each
completion."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tropism.errors import TropismError
from tropism.tensors.batch import Batch
from tropism.tensors.tree import Tree

PADDING = (0, 0, -1, -1, False, 0.0)  # of tokens, position, parent, completion, loss mask, old log-probabilities


def pack(sizes: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Indices of `sizes` in rows of about `row_tokens` tokens and similar length: largest first, into the emptiest row.

    Balanced rows need almost no padding. A row may always be as long as the largest size (`row_tokens` 0: as that).
    """
    rows = max(1, -(-sum(sizes) // max(row_tokens, *sizes, 1)))
    packed: list[list[int]] = [[] for _ in range(rows)]
    fill = [(0, row) for row in range(rows)]
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        used, row = heapq.heappop(fill)
        packed[row].append(index)
        heapq.heappush(fill, (used + sizes[index], row))
    return packed


def collate(
    trees: Sequence[Tree], row_tokens: int = 0, shared: bool = True, twins: bool = False, most: int = 0
) -> Batch:
    """Arranges trees as a Batch. Rows have about `row_tokens` tokens (0: as many as the largest tree needs).

    With `shared` False every completion gets its own row with a copy of the prompt: for models that cannot use a tree
    mask, for long answers, and for testing the shared layout. A tree of more than `most` tokens (0: no limit) gets
    several shared rows, each with the prompt and some completions. With `twins` a completion with the same tokens as an
    earlier one of its group gets no tokens of its own and ends where that one ends: for models that only score, this
    gives the same scores and gradients for less work.
    """
    if not trees:
        raise TropismError("an empty batch cannot be collated: give at least one group")
    bins, width, own = _arranged(trees, row_tokens, shared, twins, most)
    first = [0, *itertools.accumulate(len(tree.completions) for tree in trees)]  # completion of each tree in the batch
    have_old = all(tree.logprobs is not None for tree in trees)
    table: tuple[list[list[Any]], ...] = tuple([] for _ in PADDING)
    last = [0] * first[-1]
    for b, row in enumerate(bins):
        columns, ends = _row(trees, row, first, have_old)
        for rows, column, padding in zip(table, columns, PADDING):
            rows.append(column + [padding] * (width - len(column)))
        for n, end in ends.items():
            last[n] = b * width + end
    tokens, position, parent, completion, mask, old = table
    last = [last[first[t] + k] for t in range(len(trees)) for k in own[t]]
    completion_BT = torch.tensor(completion, dtype=torch.long)
    return Batch(
        tokens_BT=torch.tensor(tokens, dtype=torch.long),
        position_BT=torch.tensor(position, dtype=torch.long),
        parent_BT=torch.tensor(parent, dtype=torch.long),
        completion_BT=completion_BT,
        loss_mask_BT=torch.tensor(mask, dtype=torch.bool) & (torch.tensor(parent) >= 0),
        group_N=torch.tensor([t for t, tree in enumerate(trees) for _ in tree.completions], dtype=torch.long),
        last_N=torch.tensor(last, dtype=torch.long),
        ended_N=torch.tensor([e for tree in trees for e in tree.ended], dtype=torch.bool),
        ids=tuple(tree.id for tree in trees),
        shared=shared,
        old_logprobs_BT=torch.tensor(old) if have_old else None,
        **_judged(trees),
        **_stepped(trees, first, completion_BT),
    )


def _stepped(trees: Sequence[Tree], first: Sequence[int], completion_BT: Tensor) -> dict[str, Tensor]:
    """Where steps end and their rewards, if any tree has steps; rewards at the same token are added up."""
    if all(tree.steps is None for tree in trees):
        return {}
    owner = completion_BT.flatten()
    step, reward = torch.zeros_like(owner, dtype=torch.bool), torch.zeros(len(owner))
    for t, tree in enumerate(trees):
        for k, steps in enumerate(tree.steps or ()):
            columns = (owner == first[t] + k).nonzero()[:, 0]
            for token, worth in steps:
                step[columns[token]] = True
                reward[columns[token]] += worth
    return {"step_BT": step.view_as(completion_BT), "step_reward_BT": reward.view_as(completion_BT)}


def _row(
    trees: Sequence[Tree], row: Sequence[tuple[int, list[int]]], first: Sequence[int], have_old: bool
) -> tuple[tuple[list[Any], ...], dict[int, int]]:
    """The columns of one row, in the order of PADDING, and the last column of each completion in it."""
    tokens: list[int] = []
    position: list[int] = []
    parent: list[int] = []
    completion: list[int] = []
    mask: list[bool] = []
    old: list[float] = []
    ends: dict[int, int] = {}
    for t, ks in row:
        tree = trees[t]
        start, depth = len(tokens), len(tree.prompt)
        tokens += tree.prompt
        position += range(depth)
        parent += [-1, *range(start, start + depth - 1)] if depth else []
        completion += [-1] * depth
        mask += [False] * depth
        old += [0.0] * depth
        for k in ks:
            answer = tree.completions[k]
            begin, length = len(tokens), len(answer)
            tokens += answer
            position += range(depth, depth + length)
            parent += [start + depth - 1 if depth else -1, *range(begin, begin + length - 1)] if length else []
            completion += [first[t] + k] * length
            mask += tree.trained[k]
            old += tree.logprobs[k] if have_old and tree.logprobs else [0.0] * length
            ends[first[t] + k] = begin + length - 1 if length else start + max(depth - 1, 0)
    return (tokens, position, parent, completion, mask, old), ends


def _judged(trees: Sequence[Tree]) -> dict[str, Tensor]:
    """The fields that all trees have: rewards and which completions have one, ranks, baselines."""
    found: dict[str, Tensor] = {}
    if all(tree.reward is not None for tree in trees):
        flat = [x for tree in trees for x in tree.reward or ()]
        found["scored_N"] = torch.tensor([x is not None for x in flat], dtype=torch.bool)
        found["reward_N"] = torch.tensor([0.0 if x is None else x for x in flat])
    if all(tree.rank is not None for tree in trees):
        found["rank_N"] = torch.tensor([x for tree in trees for x in tree.rank or ()], dtype=torch.long)
    if all(tree.baseline is not None for tree in trees):
        found["baseline_N"] = torch.tensor([tree.baseline or 0.0 for tree in trees for _ in tree.completions])
    return found


def shape(trees: Sequence[Tree], row_tokens: int, shared: bool, twins: bool) -> tuple[int, int]:
    """(rows, tokens of a row) of the Batch that `collate` would make with the same arguments."""
    bins, width, _ = _arranged(trees, row_tokens, shared, twins)
    return len(bins), width


def _arranged(
    trees: Sequence[Tree], row_tokens: int, shared: bool, twins: bool, most: int = 0
) -> tuple[list[list[tuple[int, list[int]]]], int, list[list[int]]]:
    """The contents of each row, as (tree, its completions in the row); the width of rows; `_own` of each tree. The rows
    of a tree that has several stand together."""
    own = [_own(tree, twins) for tree in trees]
    laid = [[k for k, o in enumerate(alike) if o == k] for alike in own]
    parts = [_parts(trees[t], ks, most) if shared else [[k] for k in ks] for t, ks in enumerate(laid)]
    pieces = [(t, some) for t, several in enumerate(parts) for some in several]
    sizes = [len(trees[t].prompt) + sum(len(trees[t].completions[k]) for k in ks) for t, ks in pieces]
    alone = [i for i, (t, _) in enumerate(pieces) if not shared or len(parts[t]) > 1]
    packed = [i for i, (t, _) in enumerate(pieces) if shared and len(parts[t]) == 1]
    bins = [[packed[i] for i in row] for row in pack([sizes[i] for i in packed], row_tokens)] if packed else []
    bins += [[i] for i in alone]
    width = max((sum(sizes[i] for i in row) for row in bins), default=0)
    return [[pieces[i] for i in row] for row in bins], width, own


def _parts(tree: Tree, ks: list[int], most: int) -> list[list[int]]:
    """The completions `ks` in runs that fit into a row of `most` tokens with the prompt; each has one at least."""
    found: list[list[int]] = []
    size = 0
    for k in ks:
        length = len(tree.completions[k])
        if not found or (most and size + length > most):
            found.append([])
            size = len(tree.prompt)
        found[-1].append(k)
        size += length
    return found or [[]]


def _own(tree: Tree, twins: bool) -> list[int]:
    """For each completion the first one with the same tokens; without `twins` itself."""
    if not twins:
        return list(range(len(tree.completions)))
    seen: dict[tuple[int, ...], int] = {}
    return [seen.setdefault(tokens, k) for k, tokens in enumerate(tree.completions)]
