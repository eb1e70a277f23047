"""What one pass reads and writes: where its new tokens go, and which pages each of them sees.

The rows of a pass are its sequences with one new token; sequences with several are chunks. The plan of rows becomes that
of the next pass, if the same rows or some of them go on, so a decoding step looks at no list of pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress

import numpy as np
import torch
from torch import Tensor

from tropism.engines._pages import PAGE, Pages
from tropism.engines._reads import Reads, Table, table
from tropism.engines._sequence import Sequenced


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
    """`page` and `at` are where the new tokens are written, in the pool of own pages; `position` is that in the text.
    `sequences` are its rows."""

    sequences: Sequence[Sequenced]
    tokens: Tensor
    position: Tensor
    reads: Reads
    page: Tensor
    at: Tensor
    chunks: list[Chunk]
    _table: Table | None = None
    _last: np.ndarray = field(init=False)  # see `Reads.last`
    _room: int = 0  # for so many tokens no row needs a page

    def advance(self, sequences: Sequence[Sequenced], take: Callable[[], int]) -> bool:
        """Becomes the plan of one more token of its rows, or of some of them in the same order; False if `sequences` are
        others. `take` gives pages to rows whose last one is full. Nothing else may have happened to the rows."""
        reads, device = self.reads, self.position.device
        moved = sequences != self.sequences
        if moved:
            going = {*sequences}
            stays = [sequence in going for sequence in self.sequences]
            if [*compress(self.sequences, stays)] != sequences:
                return False
            reads.keep(np.array(stays))
            self.position = torch.as_tensor(np.add.reduceat(reads.seen, reads.start[:-1]) - 1, device=device)
            self.sequences = sequences
        if not self._room or moved:
            seen_R = reads.seen[reads.last]
            if len(full := np.flatnonzero(seen_R == PAGE)):
                pages = [take() for _ in full]
                for row, page in zip(full.tolist(), pages):
                    sequences[row].own.append(page)
                reads.grow(full, pages)
                seen_R[full] = 0
            self._last, self._room = reads.last, PAGE - int(seen_R.max())
            self.page, self.at = (torch.as_tensor(array, device=device) for array in (reads.page[self._last], seen_R))
        else:
            self.at += 1
        self.tokens = torch.as_tensor(numbers([s.tokens[-1] for s in sequences]), device=device)
        self.position += 1
        reads.seen[self._last] += 1
        self._room -= 1
        self._table = None
        return True

    @property
    def rows(self) -> int:
        return self.reads.rows

    def table(self, own: Pages, shared: Pages) -> Table:
        """What the rows read; made when it is first asked for."""
        if self._table is None:
            self._table = table(self.reads, own, shared, self.page.device)
        return self._table


def plan(sequences: Sequence[Sequenced], counts: Sequence[int], device: torch.device) -> Plan:
    """Of sequences whose pages have room for their `counts` new tokens; those with one come first."""
    tensor = lambda array: torch.as_tensor(array, device=device)  # noqa: E731
    rows = next((i for i, count in enumerate(counts) if count > 1), len(counts))
    one = sequences[:rows]
    position = numbers([s.held for s in one])
    written = position - numbers([s.before for s in one])
    reads = reads_of(one)
    reads.seen[reads.last] = written % PAGE + 1
    tokens, page, at = [s.tokens[s.held] for s in one], reads.page[reads.last], written % PAGE
    if rows < len(counts):
        more = [*zip(sequences[rows:], counts[rows:])]
        places = [(i - s.before, s.own) for s, count in more for i in range(s.held, s.held + count)]
        page = np.concatenate([page, [own[i // PAGE] for i, own in places]])
        at = np.concatenate([at, [i % PAGE for i, _ in places]])
        tokens += [t for s, count in more for t in s.tokens[s.held : s.held + count]]
        position = np.concatenate([position, *(np.arange(s.held, s.held + count) for s, count in more)])
    return Plan(
        one, tensor(numbers(tokens)), tensor(position), reads, tensor(page), tensor(at),
        [*_chunks(sequences, counts, rows, tensor)],
    )  # fmt: skip


def reads_of(rows: Sequence[Sequenced]) -> Reads:
    """All pages of some rows; what they see of their last ones is not looked at."""
    own, shared = numbers([len(s.own) for s in rows]), numbers([len(s.shared) for s in rows])
    start = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(own + shared, out=start[1:])
    page = numbers([*chain.from_iterable([pages for s in rows for pages in (s.shared, s.own)])])
    seen = np.full(len(page), PAGE)
    if shared.any():
        sees = numbers([*chain.from_iterable([s.seen for s in rows])])
        seen[np.arange(len(sees)) + np.repeat(np.cumsum(own) - own, shared)] = sees
    return Reads(start, page, seen, shared)


def numbers(given: list[int]) -> np.ndarray:
    return np.fromiter(given, np.int64, len(given))


def _chunks(
    sequences: Sequence[Sequenced], counts: Sequence[int], rows: int, tensor: Callable[..., Tensor]
) -> Iterator[Chunk]:
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
