"""What one pass reads and writes: which queries meet which pages, as tensors.

The rows of a pass are its sequences with one new token. The scores of row r and its page number j (its own pages first,
then the shared ones) are at r * width + j of a table; a row after the last takes what belongs to nobody. A part is some
pages of a pool with the rows that read them, up to `users` for each page. Sequences with several new tokens are chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tropism.engines._pages import PAGE, Pages
from tropism.engines._sequence import Sequenced

FULL_ENOUGH = 0.6  # read a pool without copying if this share of its pages is needed


@dataclass
class Part:
    """The pages `index` of a pool (its first `count` if None). Page i is read by the rows `query[i * users + u]`; their
    scores are at `score` of the table, their outputs are added to the rows `out`."""

    pool: Pages
    index: Tensor | None
    count: int
    users: int
    query: Tensor
    score: Tensor
    out: Tensor

    def of(self, tensors: dict[int, Tensor], layer: int) -> Tensor:
        whole = tensors[layer]
        return whole[: self.count] if self.index is None else whole.index_select(0, self.index)


@dataclass
class Chunk:
    """`count` sequences with `length` new tokens each, from row `first` of the pass. `held` tokens came before, in the
    places `shared` and `own` (page * PAGE + offset) of the two pools, which include the new ones; 0: there are none."""

    first: int
    count: int
    length: int
    held: int = 0
    shared: Tensor | None = None
    own: Tensor | None = None


@dataclass
class Plan:
    """`page` and `at` are where the new tokens are written, in the pool of own pages."""

    rows: int
    width: int
    page: Tensor
    at: Tensor
    parts: list[Part]
    seen: Tensor  # (rows + 1, width) tokens of each page that the row sees
    start: Tensor  # (rows + 1, width) position of the page's first token
    position: Tensor  # (rows + 1,) of the new token
    chunks: list[Chunk]
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """(rows + 1, width, 1, PAGE): 0 where a row sees a token, -inf elsewhere."""
        if window not in self.masks:
            offset = torch.arange(PAGE, device=self.seen.device)
            sees = offset < self.seen[:, :, None]
            if window is not None:
                sees &= self.position[:, None, None] - (self.start[:, :, None] + offset) < window
                sees[-1] = True
            blank = torch.zeros((), dtype=dtype, device=sees.device)
            self.masks[window] = torch.where(sees, blank, float("-inf"))[:, :, None]
        return self.masks[window]


def plan(sequences: Sequence[Sequenced], counts: Sequence[int], own: Pages, shared: Pages, device: Any) -> Plan:
    """Of sequences whose pages have room for their `counts` new tokens; those with one come first."""
    tensor = lambda array: torch.as_tensor(array, device=device)  # noqa: E731
    rows = next((i for i, count in enumerate(counts) if count > 1), len(counts))
    page, at = _places(sequences, counts)
    one = sequences[:rows]
    before = np.array([sum(s.seen) for s in one], dtype=np.int64)
    mine = np.array([s.held + 1 for s in one], dtype=np.int64) - before
    many = np.array([len(s.own) for s in one], dtype=np.int64)
    deep = np.array([len(s.shared) for s in one], dtype=np.int64)
    left, right = int(many.max(initial=0)), int(deep.max(initial=0))
    width = left + right
    seen, start = np.zeros((rows + 1, width), dtype=np.int64), np.zeros((rows + 1, width), dtype=np.int64)
    seen[:-1, :left] = np.clip(mine[:, None] - PAGE * np.arange(left), 0, PAGE)
    start[:-1, :left] = before[:, None] + PAGE * np.arange(left)
    seen[-1] = PAGE
    row, slot = _spread(deep)
    sees = np.fromiter(chain.from_iterable(s.seen for s in one), dtype=np.int64)
    seen[row, left + slot] = sees
    start[row, left + slot] = _before(sees, deep)
    parts = []
    for pool, lists, number, offset in (
        (own, [s.own for s in one], many, 0),
        (shared, [s.shared for s in one], deep, left),
    ):
        pages = np.fromiter(chain.from_iterable(lists), dtype=np.int64)
        row, slot = _spread(number)
        parts += [_part(pool, found, rows, width, tensor) for found in _shapes(pages, row, row * width + slot + offset)]
    return Plan(
        rows, width, tensor(page), tensor(at), parts, tensor(seen), tensor(start),
        tensor(np.array([*(s.held for s in one), 0], dtype=np.int64)), [*_chunks(sequences, counts, rows, tensor)],
    )  # fmt: skip


def _places(sequences: Sequence[Sequenced], counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The page and the offset of each new token."""
    page, at = [], []
    for s, count in zip(sequences, counts):
        first = s.held - sum(s.seen) if s.seen else s.held
        if count == 1:
            page.append(s.own[first // PAGE])
            at.append(first % PAGE)
        else:
            page += [s.own[i // PAGE] for i in range(first, first + count)]
            at += [i % PAGE for i in range(first, first + count)]
    return np.array(page, dtype=np.int64), np.array(at, dtype=np.int64)


def _spread(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of counts (2, 1): whose each is (0, 0, 1), and its number there (0, 1, 0)."""
    whose = np.repeat(np.arange(len(counts)), counts)
    return whose, np.arange(len(whose)) - np.repeat(np.cumsum(counts) - counts, counts)


def _before(sees: np.ndarray, deep: np.ndarray) -> np.ndarray:
    """The sum of what a row sees in earlier shared pages, for each of its shared pages."""
    total = np.cumsum(sees) - sees
    first = np.cumsum(deep) - deep
    return total - np.repeat(total[np.minimum(first, max(len(total) - 1, 0))], deep) if len(total) else total


def _shapes(pages: np.ndarray, row: np.ndarray, score: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """(pages, number of the page of each pair, number of the user, row, score), for pages with about as many users."""
    if not len(pages):
        return
    unique, whose, users = np.unique(pages, return_inverse=True, return_counts=True)
    order = np.argsort(whose, kind="stable")
    number = np.empty_like(whose)
    number[order] = _spread(users)[1]
    size = np.ceil(np.log2(users)).astype(int)
    if len(unique) * users.max() <= 2 * len(pages):
        size[:] = 0
    for kind in np.unique(size):
        among = size == kind
        place = np.cumsum(among) - 1
        pairs = among[whose]
        yield unique[among], place[whose[pairs]], number[pairs], row[pairs], score[pairs]


def _part(pool: Pages, found: tuple[np.ndarray, ...], rows: int, width: int, tensor: Any) -> Part:
    pages, place, number, row, score = found
    users, high = int(number.max()) + 1, int(pages.max()) + 1
    whole = len(pages) >= FULL_ENOUGH * high
    count = high if whole else len(pages)
    where = (pages[place] if whole else place) * users + number
    query = np.zeros(count * users, dtype=np.int64)
    out = np.full(count * users, rows, dtype=np.int64)
    scores = np.full(count * users, rows * width, dtype=np.int64)
    query[where], out[where], scores[where] = row, row, score
    return Part(pool, None if whole else tensor(pages), count, users, tensor(query), tensor(scores), tensor(out))


def _chunks(sequences: Sequence[Sequenced], counts: Sequence[int], rows: int, tensor: Any) -> Iterator[Chunk]:
    """New sequences of one length that stand together are one chunk."""
    first, i = rows, rows
    while i < len(counts):
        s, length = sequences[i], counts[i]
        same = 1
        if not s.held:
            while i + same < len(counts) and counts[i + same] == length and not sequences[i + same].held:
                same += 1
            yield Chunk(first, same, length)
        else:
            seen = [page * PAGE + at for page, sees in zip(s.shared, s.seen) for at in range(sees)]
            mine = range(s.held + length - len(seen))
            own = [s.own[k // PAGE] * PAGE + k % PAGE for k in mine]
            yield Chunk(first, 1, length, s.held, tensor(seen), tensor(own))
        first, i = first + same * length, i + same
