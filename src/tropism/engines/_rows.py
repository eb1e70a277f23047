"""Decoding for models that cannot use slots (linear attention, states, a special cache): all rows have the same length.

Prompts of the same length are run together, so no padding and no mask is needed. The model uses its own cache. If it
has none that can be reordered, every token is computed again from the whole text: slow, but correct for every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tropism.models.halves import backbone, logits, states_of

CACHES = ("past_key_values", "cache_params")  # the names of the cache in different families


class Cached:
    """Rows of the same length, with the model's own cache."""

    joins = False

    def __init__(self, model: PreTrainedModel, rows: int, length: int) -> None:
        self.model = model
        self.cache: Any = None
        self.name = ""

    def admit(self, prompts: Sequence[Sequence[int]], owner: Sequence[int]) -> Tensor:
        """The first (rows, V) logits of new rows, row i of prompt `owner[i]`; there are no others."""
        prompt = torch.tensor(owner, device=self.model.device)
        out = backbone(self.model)(input_ids=torch.tensor(prompts, device=self.model.device), use_cache=True)
        self.name = next(name for name in CACHES if getattr(out, name, None) is not None)
        self.cache = getattr(out, self.name)
        self.cache.reorder_cache(prompt)
        return logits(self.model, out.last_hidden_state[:, -1])[prompt]

    def step(self, tokens: Tensor) -> Tensor:
        """(rows, V) logits after one more token in every row."""
        out = backbone(self.model)(input_ids=tokens[:, None], use_cache=True, **{self.name: self.cache})
        return logits(self.model, out.last_hidden_state[:, -1])

    def keep(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was."""
        self.cache.reorder_cache(rows)


class Again:
    """Rows of the same length, without a cache."""

    joins = False

    def __init__(self, model: PreTrainedModel, rows: int, length: int) -> None:
        self.model = model
        self.tokens = torch.zeros(0, 0, dtype=torch.long)

    def admit(self, prompts: Sequence[Sequence[int]], owner: Sequence[int]) -> Tensor:
        """The first (rows, V) logits of new rows, row i of prompt `owner[i]`; there are no others."""
        prompt = torch.tensor(owner, device=self.model.device)
        self.tokens = torch.tensor(prompts, device=self.model.device)
        scores = self._last()[prompt]
        self.tokens = self.tokens[prompt]
        return scores

    def step(self, tokens: Tensor) -> Tensor:
        """(rows, V) logits after one more token in every row."""
        self.tokens = torch.cat([self.tokens, tokens[:, None]], 1)
        return self._last()

    def keep(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was."""
        self.tokens = self.tokens[rows]

    def _last(self) -> Tensor:
        return logits(self.model, states_of(self.model, self.tokens)[:, -1])
