"""What the rows of a pass read, as lists of pages and as a table for products of matrices (`_attention.py`).

In the table the scores of row r and its page number j are at r * width + j; a row after the last takes what belongs to
nobody. A part is some pages of a pool with the rows that read them, up to `users` for each page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tropism.engines._pages import PAGE, Pages

FULL_ENOUGH = 0.6  # read a pool without copying if this share of its pages is needed


@dataclass
class Reads:
    """Row r sees the first `seen[i]` tokens of page `page[i]`, for start[r] <= i < start[r + 1], in the order of its text.
    The first `shared[r]` of these pages are shared ones, the others its own. All are arrays of int64."""

    start: np.ndarray
    page: np.ndarray
    seen: np.ndarray
    shared: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.shared)

    @property
    def last(self) -> np.ndarray:
        """The place of each row's last page in the list."""
        return self.start[1:] - 1

    def keep(self, stays_R: np.ndarray) -> None:
        """Only the rows of a mask."""
        number = self.start[1:] - self.start[:-1]
        read = np.repeat(stays_R, number)
        self.page, self.seen, self.shared = self.page[read], self.seen[read], self.shared[stays_R]
        self.start = self.start[: self.rows + 1]
        np.cumsum(number[stays_R], out=self.start[1:])

    def grow(self, row: np.ndarray, page: Sequence[int]) -> None:
        """One more page at the end of some rows, which have seen nothing of it."""
        ends = self.start[row + 1]
        self.page, self.seen = np.insert(self.page, ends, page), np.insert(self.seen, ends, 0)
        self.start[1:] += np.cumsum(np.bincount(row, minlength=self.rows))


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
class Table:
    rows: int
    width: int
    parts: list[Part]
    seen: Tensor  # (rows + 1, width) tokens of each page that the row sees
    start: Tensor  # (rows + 1, width) position of the page's first token
    position: Tensor  # (rows + 1,) of the new token
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


def table(reads: Reads, own: Pages, shared: Pages, device: torch.device) -> Table:
    tensor = lambda array: torch.as_tensor(array, device=device)  # noqa: E731
    rows, number = reads.rows, np.diff(reads.start)
    width = int(number.max())
    row, slot = _spread(number)
    seen, start = np.zeros((rows + 1, width), dtype=np.int64), np.zeros((rows + 1, width), dtype=np.int64)
    seen[row, slot], seen[-1] = reads.seen, PAGE
    start[row, slot] = (np.cumsum(seen[:-1], 1) - seen[:-1])[row, slot]
    position = np.append(seen[:-1].sum(1) - 1, 0)
    parts = []
    for pool, mine in ((own, slot >= reads.shared[row]), (shared, slot < reads.shared[row])):
        places = (row * width + slot)[mine]
        parts += [_part(pool, found, rows, width, tensor) for found in _shapes(reads.page[mine], row[mine], places)]
    return Table(rows, width, parts, tensor(seen), tensor(start), tensor(position))


def _spread(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of counts (2, 1): whose each is (0, 0, 1), and its number there (0, 1, 0)."""
    whose = np.repeat(np.arange(len(counts)), counts)
    return whose, np.arange(len(whose)) - np.repeat(np.cumsum(counts) - counts, counts)


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
