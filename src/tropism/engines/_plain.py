"""Ways without pages, for models that cannot use them (linear attention, states, a special cache).

Sequences of one length are run together, so no padding and no mask is needed. `Cached` uses the model's own cache, a
cohort of rows that take every step together. If the model has none that can be reordered, `Again` computes every token
again from the whole text: slow, but correct for every model. Both are told of sequences in the same words as `Store`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tropism.engines._sequence import Sequenced
from tropism.models.halves import backbone, states_of

CACHES = ("past_key_values", "cache_params")  # the names of the cache in different families


class Again:
    """Rows of the same length, without a cache."""

    chunks = False  # all pending tokens of a sequence are run in one pass
    bytes = page_bytes = 0  # not counted

    def __init__(self, model: PreTrainedModel, cache: bool = True) -> None:
        self.model = model
        self.sequences: set[Sequenced] = set()

    def refresh(self) -> None:
        pass

    def clear(self) -> None:
        pass

    def busy(self) -> int:
        return 0

    def growth(self, sequence: Sequenced, count: int) -> int:
        return 0

    def find(self, sequence: Sequenced) -> None:
        pass

    def share(self, sequence: Sequenced, n: int = 1) -> None:
        pass

    def fork(self, sequence: Sequenced, n: int) -> list[Sequenced]:
        made = [
            Sequenced(list(sequence.tokens), held=sequence.held, scored=sequence.scored, place=sequence.place)
            for _ in range(n)
        ]
        self.sequences.update(made)
        return made

    def cut(self, sequence: Sequenced, length: int) -> None:
        if length < sequence.held:
            sequence.held, sequence.place = (0, None) if self.keeps else (length, None)

    def free(self, *sequences: Sequenced) -> None:
        self.sequences.difference_update(sequences)
        for sequence in sequences:
            sequence.held, sequence.place = 0, None

    def forget(self) -> None:
        for sequence in self.sequences:
            sequence.held, sequence.place, sequence.scored = 0, None, None

    keeps = False  # whether what was computed is kept

    def run(self, sequences: Sequence[Sequenced], counts: Sequence[int]) -> Tensor:
        """(sum of counts, width) last hidden states of all pending tokens of sequences, one after the other."""
        self.sequences.update(sequences)
        found: dict[int, Tensor] = {}
        for rows in self._together(sequences):
            found |= zip(rows, self._states([sequences[i] for i in rows]))
        for sequence in sequences:
            sequence.held = len(sequence.tokens)
        return torch.cat([found[i][-count:] for i, count in enumerate(counts)])

    def _together(self, sequences: Sequence[Sequenced]) -> Iterator[list[int]]:
        """The numbers of sequences that are run in one call."""
        kinds = [self._kind(s) for s in sequences]
        for kind in dict.fromkeys(kinds):
            yield [i for i, other in enumerate(kinds) if other == kind]

    def _kind(self, sequence: Sequenced) -> Any:
        return len(sequence.tokens)

    def _states(self, sequences: Sequence[Sequenced]) -> Tensor:
        """(sequences, at least the pending tokens, width)."""
        return states_of(self.model, torch.tensor([s.tokens for s in sequences], device=self.model.device))


class Cached(Again):
    """Rows of the same length, with the model's own cache. A row that misses a step of its cohort is computed again."""

    keeps = True

    def _kind(self, sequence: Sequenced) -> Any:
        if sequence.place and sequence.pending == 1 and sequence.place[0].length == sequence.held:
            return id(sequence.place[0])
        return ("new", len(sequence.tokens))

    def _states(self, sequences: Sequence[Sequenced]) -> Tensor:
        steps = not isinstance(self._kind(sequences[0]), tuple)
        rows = [s.place[1] for s in sequences] if steps else []
        cohort = sequences[0].place[0] if steps else _Cohort(self.model)
        states = cohort.run([s.tokens[-1:] if steps else s.tokens for s in sequences], rows)
        for row, sequence in enumerate(sequences):
            sequence.place = (cohort, row)
        return states


class _Cohort:
    """Rows that share a cache of the model; all have `length` tokens in it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.length = model, 0
        self._cache: Any = None
        self._name = ""
        self._rows = 0

    def run(self, tokens: Sequence[Sequence[int]], rows: Sequence[int]) -> Tensor:
        """(rows, new tokens, width) states after new tokens; row i goes on from what row `rows[i]` was."""
        device, options = self.model.device, {}
        if self._cache is not None:
            if list(rows) != list(range(self._rows)):
                self._cache.reorder_cache(torch.tensor(rows, device=device))
            options = {self._name: self._cache}
        out = backbone(self.model)(input_ids=torch.tensor(tokens, device=device), use_cache=True, **options)
        self._name = next(name for name in CACHES if getattr(out, name, None) is not None)
        self._cache = getattr(out, self._name)
        self._rows, self.length = len(tokens), self.length + len(tokens[0])
        return out.last_hidden_state
