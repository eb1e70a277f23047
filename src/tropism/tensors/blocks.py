"""The attention of a forest as rectangles of queries and keys, all of which are slices of one sequence of tokens.

The tokens of a Batch without its padding form one sequence of M tokens. In a group with the prompt P and the answers
A1 … AK the keys of a token are its ancestors, so its attention is that of

    P A1     causal
    Ak       causal, k = 2 … K
    A2 … AK  to all keys of P

and nothing else is computed: no token sees a key that a mask then hides, and no key is copied. `own` are the causal
squares, which have each token once; `cross` are the rectangles. Blocks of one size at equal distances are one entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from tropism.tensors.batch import Batch


@dataclass(frozen=True, slots=True)
class Block:
    """`count` rectangles: queries [query, query + queries) and keys [key, key + keys), each `stride` after the last."""

    query: int
    queries: int
    key: int
    keys: int
    count: int = 1
    stride: int = 0


@dataclass(frozen=True, slots=True)
class Blocks:
    kept_M: Tensor  # flat indices (row * T + column) of the tokens that are not padding
    own: tuple[Block, ...]
    cross: tuple[Block, ...]
    position_M: Tensor  # depth in the tree
    depth: int  # the largest position + 1

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key."""
        squares = sum(b.count * b.queries * (b.queries + 1) // 2 for b in self.own)
        return squares + sum(b.count * b.queries * b.keys for b in self.cross)


def blocks(batch: Batch) -> Blocks:
    """The blocks of a batch in shared rows."""
    kept_M = _real(batch).flatten().nonzero()[:, 0]
    position_M, completion_M = batch.position_BT.flatten()[kept_M], batch.completion_BT.flatten()[kept_M]
    begins_M = position_M == 0
    begins_M[1:] |= completion_M[1:] != completion_M[:-1]
    starts = begins_M.nonzero()[:, 0].tolist()
    roots, answers = (position_M[starts] == 0).tolist(), (completion_M[starts] >= 0).tolist()
    own: list[Block] = []
    cross: list[Block] = []
    prompt = (0, 0)
    joins = False
    for start, end, root, answer in zip(starts, [*starts[1:], len(kept_M)], roots, answers):
        if root:
            own.append(Block(start, end - start, start, end - start))
            prompt, joins = (start, 0 if answer else end - start), True
        elif joins:  # the first answer continues its prompt
            own[-1] = Block(prompt[0], end - prompt[0], prompt[0], end - prompt[0])
            joins = False
        else:
            own.append(Block(start, end - start, start, end - start))
            before = cross[-1] if cross and cross[-1].key == prompt[0] else Block(start, 0, *prompt)
            cross[len(cross) - (before.queries > 0) :] = [replace(before, queries=end - before.query)]
    return Blocks(kept_M, _joined(own), _joined(cross), position_M, int(position_M.max()) + 1)


def _real(batch: Batch) -> Tensor:
    """(B, T), False for padding, which differs from a prompt of one token only in that nothing follows it or ends
    there."""
    real_BT = (batch.position_BT > 0) | (batch.completion_BT >= 0)
    real_BT[:, :-1] |= batch.position_BT[:, 1:] == 1
    real_BT.view(-1)[batch.last_N] = True
    return real_BT


def _joined(parts: Sequence[Block]) -> tuple[Block, ...]:
    """Neighbours of one size and at one distance as one entry."""
    found: list[Block] = []
    for part in parts:
        last = found[-1] if found else None
        if last is not None and (last.queries, last.keys) == (part.queries, part.keys):
            gap = part.query - last.query - (last.count - 1) * last.stride
            if part.query - part.key == last.query - last.key and (last.count == 1 or gap == last.stride):
                found[-1] = replace(last, count=last.count + 1, stride=gap)
                continue
        found.append(part)
    return tuple(found)
