"""The batch: what decodes now and what waits, one step at a time. Requests enter and leave between any two steps.

A step runs the model once, over one token of every row that decodes and some tokens of prompts that enter (at most
`CHUNK`, so that nobody waits long), and chooses a token for each row whose scores are known. A prompt is run once and
forked for its samples. If the memory is full, the rows that came last lose their keys and values; they are computed
again when there is room, from the tokens, which nobody takes back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tropism.engines._choose import choose, masked
from tropism.engines._pages import PAGE
from tropism.engines._row import Root, Row
from tropism.engines._sequence import Sequenced
from tropism.engines._store import Store
from tropism.engines._ways import Way
from tropism.errors import TropismError
from tropism.models.functional import head_of

CHUNK = 1024  # tokens of prompts in one pass
STEPS = 16  # tokens of each row in one operation, where nobody waits for the next
KEPT = 64  # prompts of so many tokens are remembered by their content


class Batch:
    """`limit` is the number of bytes for keys and values, `rows` the largest number of rows of a step."""

    def __init__(self, model: PreTrainedModel, way: Way, rows: int, limit: int, stops: Iterable[int]) -> None:
        self.model, self.way, self.rows, self.limit = model, way, rows, limit
        self.stops = frozenset(stops)
        self.waiting: deque[Root] = deque()
        self.roots: list[Root] = []  # prompts that are run, or whose samples have not all begun
        self.live: list[Row] = []
        self.lost: deque[Row] = deque()  # rows without keys and values, as the memory was full
        self.refresh()

    def refresh(self) -> None:
        """Looks again at how the model is run; see `Store.refresh`."""
        self.way.refresh()
        self.head = head_of(self.model)

    def submit(self, root: Root) -> None:
        self.waiting.append(root)

    def resume(self, rows: Sequence[Row]) -> None:
        """Rows on sequences that exist: they decode as soon as there is room."""
        self.lost.extend(rows)

    def cancel(self, root: Root) -> None:
        """Ends all samples of a request and frees their memory at once."""
        self.waiting = deque(r for r in self.waiting if r is not root)
        if root in self.roots:
            self.roots.remove(root)
            self.way.free(root.sequence)
        self.leave(root.rows)

    def leave(self, rows: Sequence[Row]) -> None:
        """Takes rows out, finished or not."""
        going = {*rows}
        self.live = [row for row in self.live if row not in going]
        self.lost = deque(row for row in self.lost if row not in going)
        self.way.free(*(row.sequence for row in rows if row.owned))

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.roots or self.live or self.lost)

    @torch.inference_mode()
    def step(self, most: int = 1) -> list[Row]:
        """One pass of the model, one token for every row whose turn it is; up to `most` where one operation can make
        several. Returns the rows that got some."""
        self._admit()
        if most > 1 and (store := self._alone(most)):
            return self._several(store, most)
        self._run([row.sequence for row in self.live] + [root.sequence for root in self.roots])
        self._begin()
        ready = [row for row in self.live if row.sequence.scored]
        for rows in _alike(ready):
            scores = _together([row.sequence.scored for row in rows])
            if any(row.sequence.allowed for row in rows):
                scores = masked(scores, [(row.sequence.allowed, row.sequence.tokens) for row in rows])
            drawn = map(next, [row.draws for row in rows])
            for row, token, logprob in zip(rows, *choose(scores, drawn, rows[0].params)):
                row.take(token, logprob, self.stops)
        if finished := [row for row in ready if row.finished]:
            self.leave(finished)
        return ready

    def _alone(self, most: int) -> Store | None:
        """What can make the next tokens of all rows in one operation: if nothing else has to be run, all choose from the
        same plain distribution, and there is memory."""
        store = self.way if isinstance(self.way, Store) and self.way.chooses else None
        if store is None or not self.live or not all(root.sequence.scored for root in self.roots):
            return None
        if self.roots and len(self.live) < self.rows:  # their samples begin
            return None
        if any(row.ends or row.sequence.allowed or row.sequence.pending != 1 for row in self.live):
            return None  # someone looks at each token
        params, pages = self.live[0].params, self.way.busy() + len(self.live) * (1 + most // PAGE)
        plain = params.top_k == 0 and params.top_p == 1 and len(_alike(self.live)) == 1
        return store if plain and pages * self.way.page_bytes <= self.limit else None

    def _several(self, store: Store, most: int) -> list[Row]:
        rows, params = self.live, self.live[0].params
        limits = [row.params.max_tokens - len(row.tokens) for row in rows]
        most = min(most, max(limits))
        drawn = chain.from_iterable([islice(row.draws, most) for row in rows]) if params.temperature else []
        numbers = np.fromiter(drawn, np.float64, -1).reshape(len(rows), -1)
        sequences = [row.sequence for row in rows]
        made = store.several(sequences, most, limits, numbers, self.stops, params.temperature)
        for row, (tokens, logprobs) in zip(rows, made):
            row.take_all(tokens, logprobs, self.stops)
        if finished := [row for row in rows if row.finished]:
            self.leave(finished)
        return rows

    def _admit(self) -> None:
        """Rows that lost their memory come back, then prompts enter, as long as rows and memory last."""
        while self.lost and len(self.live) < self.rows:
            self.way.find(self.lost[0].sequence)
            if not self._room(self.lost[0].sequence):
                break
            self.live.append(self.lost.popleft())
        coming = sum(len(root.waiting) for root in self.roots)
        while self.waiting and not self.lost and len(self.live) + coming < self.rows:
            root = self.waiting[0]
            self.way.find(root.sequence)
            if not self._room(root.sequence):
                break
            self.roots.append(self.waiting.popleft())
            coming += len(root.waiting)

    def _room(self, sequence: Sequenced) -> bool:
        """Whether a sequence's pending tokens fit beside what runs, and one more page for each row; if nothing runs it
        must."""
        if not self.live and not any(root.sequence.held for root in self.roots):
            return True
        coming = sum(self.way.growth(root.sequence, root.sequence.pending) for root in self.roots)
        pages = self.way.busy() + coming + self.way.growth(sequence, sequence.pending) + 1 + len(self.live)
        return pages * self.way.page_bytes <= self.limit

    @torch.inference_mode()
    def fill(self, sequences: Sequence[Sequenced]) -> None:
        """Runs sequences until their scores are known; nobody else gets a token."""
        for sequence in sequences:
            self.way.find(sequence)
        while left := [sequence for sequence in sequences if not sequence.scored]:
            self._run(left)

    def _run(self, sequences: list[Sequenced]) -> None:
        """One pass over the next tokens of sequences."""
        counts = [len(sequence.tokens) - sequence.held for sequence in sequences]
        if counts.count(1) < len(counts):
            sequences, counts = self._next(sequences)
        if (self.way.busy() + sum(counts)) * self.way.page_bytes > self.limit:
            sequences, counts = self._fitting(sequences, counts)
        if not counts:
            return
        states = self.way.run(sequences, counts)
        done = [i for i, sequence in enumerate(sequences) if len(sequence.tokens) == sequence.held]
        if len(done) < len(states):
            ends = torch.tensor(counts).cumsum(0) - 1
            states = states[ends[done].to(states.device)]
        if done:
            scores = self.head(states)
            for row, i in enumerate(done):
                sequences[i].scored = (scores, row)

    def _next(self, sequences: Sequence[Sequenced]) -> tuple[list[Sequenced], list[int]]:
        """The sequences that have tokens for a pass, and how many; those with one come first."""
        one: list[Sequenced] = []
        more: list[tuple[Sequenced, int]] = []
        room = CHUNK
        for sequence in sequences:
            if not sequence.pending and not sequence.scored:  # its end is known, but not what may follow
                self.way.cut(sequence, len(sequence.tokens) - 1)
            count = sequence.pending
            if self.way.chunks and count > 1:
                count = min(count, room)
                room -= count
            if count == 1:
                one.append(sequence)
            elif count:
                more.append((sequence, count))
        return one + [s for s, _ in more], [1] * len(one) + [count for _, count in more]

    def _fitting(self, sequences: Sequence[Sequenced], counts: Sequence[int]) -> tuple[list[Sequenced], list[int]]:
        """Takes the memory of the rows that came last until the others fit; these and their counts."""
        entries = [*zip(sequences, counts)]
        while len(self.live) + len(self.roots) > 1:
            pages = self.way.busy() + sum(self.way.growth(*entry) for entry in entries)
            if pages * self.way.page_bytes <= self.limit:
                break
            if self.live:
                row = self.live.pop()
                self.lost.appendleft(row)
                sequence = row.sequence
            else:
                root = self.roots.pop()
                self.waiting.appendleft(root)
                sequence = root.sequence
            self.way.cut(sequence, 0)
            sequence.scored = None
            entries = [entry for entry in entries if entry[0] is not sequence]
        return [s for s, _ in entries], [count for _, count in entries]

    def _begin(self) -> None:
        """Samples of prompts that have been run begin while there are rows for them."""
        for root in list(self.roots):
            count = min(len(root.waiting), self.rows - len(self.live))
            if not root.sequence.scored or not count:
                continue
            if len(root.sequence.tokens) >= KEPT:
                self.way.share(root.sequence)
            last = count == len(root.waiting)
            sequences = self.way.fork(root.sequence, count - last) if count > last else []
            if last:
                sequences.append(root.sequence)
                self.roots.remove(root)
            begun = [root.start(sequence, root.waiting.popleft()) for sequence in sequences]
            root.rows += begun
            self.live += begun


def _alike(rows: list[Row]) -> list[list[Row]]:
    """Rows with the same distribution together."""
    if all(row.params is rows[0].params for row in rows):
        return [rows] if rows else []
    found: dict[tuple[float, int, float], list[Row]] = {}
    for row in rows:
        found.setdefault((row.params.temperature, row.params.top_k, row.params.top_p), []).append(row)
    return [*found.values()]


def _together(scored: Sequence[tuple[Tensor, int] | None]) -> Tensor:
    """(R, V) logits of rows; if they are all those of a pass, as they are."""
    scores, rows = zip(*filter(None, scored))
    if len({*map(id, scores)}) > 1:
        return torch.stack([one[row] for one, row in zip(scores, rows)])
    return scores[0] if rows == (*range(len(scores[0])),) else scores[0][[*rows]]


def budget(text: str) -> int:
    """ "4GiB" in bytes. Raises TropismError."""
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
    number, unit = text[:-3].strip(), text[-3:]
    try:
        size = int(float(number) * units[unit])
        if size < 1:
            raise ValueError
    except (KeyError, ValueError, OverflowError):
        raise TropismError(
            f'memory = {text!r} is no size: write a number and a unit, such as "4GiB" or "512MiB"'
        ) from None
    return size
