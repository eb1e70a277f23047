"""The attention of a forest as rectangles of queries and keys, all of which are slices of one sequence of tokens.

The tokens of a Batch without its padding form one sequence of M tokens. In a group with the prompt P and the answers
A1 … AK, the longest first, the keys of a token are its ancestors, so its attention is that of

    P A1     causal
    Ak       causal, k = 2 … K
    A2 … AK  to all keys of P

and nothing else is computed: no token sees a key that a mask then hides, and no key is copied. `own` are the causal
squares, which have each token once; `cross` are the rectangles. In the sequence P A1 of all groups come first and then all
other answers, so that blocks of one size stand at equal distances; these are one entry. `units` says
the same by groups, for the compiled operation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from tropism.tensors.attention import Units
from tropism.tensors.batch import Batch


@dataclass(frozen=True, slots=True)
class Block:
    """`count` rectangles: queries [query, query + queries) and keys [key, key + keys); each next one is `stride` queries
    and `key_stride` keys further."""

    query: int
    queries: int
    key: int
    keys: int
    count: int = 1
    stride: int = 0
    key_stride: int = 0


@dataclass(frozen=True, slots=True)
class Blocks:
    kept_M: Tensor  # flat indices (row * T + column) of the tokens that are not padding, in the order of the sequence
    own: tuple[Block, ...]
    cross: tuple[Block, ...]
    position_M: Tensor  # depth in the tree
    depth: int  # the largest position + 1
    units: Units


_Piece = tuple[int, int]  # the first token and the number of tokens


def blocks(batch: Batch) -> Blocks:
    """The blocks of a batch in shared rows; they are computed once for each tensor of positions."""
    if batch.position_BT not in _MADE:
        _MADE[batch.position_BT] = _blocks(batch)
    return _MADE[batch.position_BT]


def _blocks(batch: Batch) -> Blocks:
    kept_M = _real(batch).flatten().nonzero()[:, 0]
    groups = _groups(batch.position_BT.flatten()[kept_M], batch.completion_BT.flatten()[kept_M])
    groups.sort(key=lambda pieces: [-length for _, length in pieces])  # those of one shape next to each other
    heads, rests = [pieces[:2] for pieces in groups], [pieces[2:] for pieces in groups]
    order = torch.tensor([i for start, n in itertools.chain(*heads, *rests) for i in range(start, start + n)])
    own: list[Block] = []
    cross: list[Block] = []
    units: list[tuple[int, ...]] = []
    at = 0
    starts = []
    for head in heads:
        size = sum(n for _, n in head)
        own.append(Block(at, size, at, size))
        starts.append(at)
        at += size
    for start, head, rest in zip(starts, heads, rests):
        size = sum(n for _, n in rest)
        if size:
            cross.append(Block(at, size, start, head[0][1]))
        units.append((start, sum(n for _, n in head), head[0][1], at, size))
        for _, n in rest:
            own.append(Block(at, n, at, n))
            at += n
    kept_M = kept_M[order.to(kept_M.device)]
    position_M = batch.position_BT.flatten()[kept_M]
    first_M = torch.cat([torch.full((b.queries,), b.query) for b in own])
    given = Units(torch.tensor(sorted(units, key=_pairs, reverse=True)), first_M)
    return Blocks(kept_M, _joined(own), _joined(cross), position_M, int(position_M.max()) + 1, given)


def _pairs(unit: tuple[int, ...]) -> int:
    """About how many pairs of a query and a key; threads take the largest units first."""
    _, head, prompt, _, rest = unit
    return (head**2 + rest * (head + prompt)) // 2


def _groups(position_M: Tensor, completion_M: Tensor) -> list[list[_Piece]]:
    """Of each group the prompt and then its answers, the longest first; an answer to an empty prompt is a group."""
    begins_M = position_M == 0
    begins_M[1:] |= completion_M[1:] != completion_M[:-1]
    starts = begins_M.nonzero()[:, 0].tolist()
    found: list[list[_Piece]] = []
    for start, end, root in zip(starts, [*starts[1:], len(position_M)], (position_M[starts] == 0).tolist()):
        if root:
            found.append([])
        found[-1].append((start, end - start))
    return [[first, *sorted(rest, key=lambda piece: -piece[1])] for first, *rest in found]


def _real(batch: Batch) -> Tensor:
    """(B, T), False for padding, which differs from a prompt of one token only in that nothing follows it or ends
    there."""
    real_BT = (batch.position_BT > 0) | (batch.completion_BT >= 0)
    real_BT[:, :-1] |= batch.position_BT[:, 1:] == 1
    real_BT.view(-1)[batch.last_N] = True
    return real_BT


def _joined(parts: Sequence[Block]) -> tuple[Block, ...]:
    """Neighbours of one size at equal distances as one entry."""
    found: list[Block] = []
    for part in parts:
        last = found[-1] if found else None
        if last is not None and (last.queries, last.keys) == (part.queries, part.keys):
            apart = part.query - last.query, part.key - last.key
            if last.count == 1 or apart == (last.count * last.stride, last.count * last.key_stride):
                stride, key_stride = (apart[0] // last.count, apart[1] // last.count)
                found[-1] = replace(last, count=last.count + 1, stride=stride, key_stride=key_stride)
                continue
        found.append(part)
    return tuple(found)


_MADE: WeakIdKeyDictionary = WeakIdKeyDictionary()
