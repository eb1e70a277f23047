"""A KV cache of slots: each row writes at its own position, so samples of different lengths decode in one batch.

It needs no model code: a `CacheLayerMixin` that stores by (row, position), plus an explicit mask and `position_ids`.
All keys are kept, also those outside a sliding window: the mask hides them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from tropism.models.halves import backbone, logits
from tropism.models.masks import masks


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, (rows, heads, length, head width). `at` says where the next tokens are written."""

    def __init__(self, rows: int, length: int) -> None:
        super().__init__()
        self.rows, self.length = rows, length
        self.at: Tensor | None = None  # (active rows,) positions to write to; the first `len(at)` rows are active
        self.used = 0  # columns any active row has filled, the new token included

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self.rows, key_states.shape[1], self.length)
        self.keys = key_states.new_zeros(*shape, key_states.shape[-1])
        self.values = value_states.new_zeros(*shape, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None and self.at is not None
        active = len(self.at)
        row = torch.arange(active, device=self.at.device)
        self.keys[row, :, self.at] = key_states[:, :, 0].to(self.keys.dtype)
        self.values[row, :, self.at] = value_states[:, :, 0].to(self.values.dtype)
        return self.keys[:active, :, : self.used], self.values[:active, :, : self.used]

    def admit(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Puts prefilled prompts, (slots, heads, prompt length, head width), into slots."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        assert self.keys is not None and self.values is not None
        self.keys[slots, :, : keys.shape[2]] = keys
        self.values[slots, :, : values.shape[2]] = values

    def keep(self, rows: Tensor) -> None:
        """Copies row `rows[i]` to row i. No row may be read after it was overwritten; `close_ranks` takes care of
        that."""
        assert self.keys is not None and self.values is not None
        to = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        self.keys[to] = self.keys[rows[to]]
        self.values[to] = self.values[rows[to]]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used, 0

    def get_seq_length(self) -> int:
        return max(self.used - 1, 0)

    def get_max_length(self) -> int:
        return self.length


class SlotCache(Cache):
    """One `SlotLayer` for each layer of the model."""

    def __init__(self, layers: int, rows: int, length: int) -> None:
        self.slots = [SlotLayer(rows, length) for _ in range(layers)]
        super().__init__(layers=list(self.slots))

    def write_at(self, at: Tensor, used: int) -> None:
        for layer in self.slots:
            layer.at, layer.used = at, used

    def admit(self, slots: Tensor, prefilled: Cache, prompt: Tensor) -> None:
        """Copies the prefilled prompt number `prompt[i]` into slot `slots[i]`."""
        for layer, source in zip(self.slots, prefilled.layers):
            assert isinstance(source, CacheLayerMixin) and source.keys is not None and source.values is not None
            layer.admit(slots, source.keys[prompt], source.values[prompt])

    def keep(self, rows: Tensor) -> None:
        for layer in self.slots:
            layer.keep(rows)


class Slots:
    """Decodes rows of different lengths: a prompt is run once for all its samples, and rows may be added at any
    time."""

    joins = True

    def __init__(self, model: PreTrainedModel, rows: int, length: int) -> None:
        self.model, self.rows, self.length = model, rows, length
        self.cache: SlotCache | None = None
        self.at = torch.zeros(0, dtype=torch.long, device=model.device)  # where each row writes next

    def admit(self, prompts: Sequence[Sequence[int]], owner: Sequence[int]) -> Tensor:
        """Adds rows after the present ones, row i with prompt `owner[i]`; returns their first (rows, V) logits."""
        device = self.model.device
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        width = int(lengths.max())
        tokens = torch.tensor([[*p, *[0] * (width - len(p))] for p in prompts], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        prefilled = DynamicCache()  # without a config it keeps all keys
        states = backbone(self.model)(
            input_ids=tokens, attention_mask=mask, past_key_values=prefilled, use_cache=True
        ).last_hidden_state
        if self.cache is None:
            self.cache = SlotCache(len(prefilled.layers), self.rows, self.length)
        prompt, first = torch.tensor(owner, device=device), len(self.at)
        self.cache.admit(torch.arange(first, first + len(owner), device=device), prefilled, prompt)
        self.at = torch.cat([self.at, lengths[prompt]])
        last = states[torch.arange(len(prompts), device=device), lengths - 1]
        return logits(self.model, last)[prompt]

    def step(self, tokens: Tensor) -> Tensor:
        """(rows, V) logits after one more token in every row."""
        assert self.cache is not None
        used = int(self.at.max()) + 1
        self.cache.write_at(self.at, used)
        columns = torch.arange(used, device=self.at.device)
        sees = columns <= self.at[:, None]
        states = backbone(self.model)(
            input_ids=tokens[:, None],
            attention_mask=masks(self.model, sees[:, None, None], self.at[:, None], columns[None]),
            position_ids=self.at[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.at = self.at + 1
        return logits(self.model, states[:, 0])

    def keep(self, rows: Tensor) -> None:
        """Copies row `rows[i]` to row i, in the order that `close_ranks` gives."""
        assert self.cache is not None
        self.cache.keep(rows)
        self.at = self.at[rows]


def close_ranks(stays: Sequence[bool]) -> list[int]:
    """The rows that stay, in an order that moves few of them: each free place is taken by a row from the end."""
    count = sum(stays)
    movers = [i for i in range(count, len(stays)) if stays[i]]
    return [i if stays[i] else movers.pop() for i in range(count)]
