"""Which attention masks a model accepts, and masks in the form that it expects.

A row that several completions share needs its own mask, and so does an engine whose rows have different lengths. A
model can use one if all its layers are full attention or attention over a sliding window (by its config), and if a
small forest of tokens gives the same states as one plain row for each sequence (this is tried once for each model).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from tropism.models.halves import alike, probe_tokens, states_of, text_config
from tropism.tensors.batch import Batch
from tropism.tensors.collate import collate
from tropism.tensors.index import tree_mask
from tropism.tensors.tree import Tree

FULL, SLIDING = "full_attention", "sliding_attention"
NARROW = (  # keys of configs that restrict attention without using the standard layer names of transformers
    "attention_chunk_size",
    "attention_window_size",
    "attn_layers",
    "block_size",
    "index_topk",
    "keep_window_size",
    "local_attention_window_len",
    "sliding_window_size",
    "window_size",
)
TREES = "_takes_trees"  # the attribute of a model with the result of the trial


def layer_kinds(model: PreTrainedModel) -> set[str]:
    """The layer types, in transformers' terms; {"unknown"} if the config does not say."""
    config = text_config(model)
    if any(getattr(config, name, None) for name in NARROW) or getattr(config, "alibi", False):
        return {"unknown"}
    try:
        return set(getattr(config, "layer_types", None) or get_layer_types_and_kwargs(config)[0])
    except Exception:  # a config without the standard terms of transformers
        return {"unknown"}


def masks(model: PreTrainedModel, sees: Tensor, query_BQ: Tensor, key_BK: Tensor) -> Any:
    """The additive mask for a model, or one for each type of its layers.

    `sees` (B, 1, queries, keys) is True where a query may look at a key; the other two are their positions.
    """
    kinds = layer_kinds(model)
    made = {FULL: _additive(sees, model.dtype)}
    if SLIDING in kinds:
        near = query_BQ[:, None, :, None] - key_BK[:, None, None] < text_config(model).sliding_window
        made[SLIDING] = _additive(sees & near, model.dtype)
    return made if len(kinds) > 1 else made[kinds.pop()]


def takes_masks(model: PreTrainedModel) -> bool:
    """Whether every layer is full attention or attention over a sliding window, of one size."""
    kinds = layer_kinds(model)
    return kinds <= {FULL, SLIDING} and (kinds == {FULL} or bool(getattr(text_config(model), "sliding_window", 0)))


def takes_trees(model: PreTrainedModel) -> bool:
    """Whether the completions of a prompt may share a row."""
    if TREES not in model.__dict__:
        model.__dict__[TREES] = takes_masks(model) and right_on_trees(model, states_under_mask)
    return model.__dict__[TREES]


def states_under_mask(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(B * T, width) last hidden states of shared rows, with a dense mask."""
    mask = masks(model, tree_mask(batch), batch.position_BT, batch.position_BT)
    return states_of(model, batch.tokens_BT, attention_mask=mask, position_ids=batch.position_BT).flatten(0, 1)


@torch.no_grad()
def right_on_trees(model: PreTrainedModel, states: Callable[[PreTrainedModel, Batch], Tensor]) -> bool:
    """Compares `states` of a row of two groups (the first: a prompt of 3 tokens, two answers of 2) with plain calls for
    each sequence."""
    ids = probe_tokens(model, 10)
    a, b, c, d, e = (tuple(ids[i:j].tolist()) for i, j in ((0, 3), (3, 5), (5, 7), (7, 9), (9, 10)))
    trees = [
        Tree("", p, xs, tuple((True,) * len(x) for x in xs), (True,) * len(xs)) for p, xs in ((a, (b, c)), (d, (e,)))
    ]
    try:
        found = states(model, collate(trees, len(ids)).to(ids.device))
    except Exception:  # a family's code may raise any error when it is used in an unexpected way
        return False
    paths = [[0, 1, 2, 3, 4], [0, 1, 2, 5, 6], [7, 8, 9]]
    return all(alike(found[path], states_of(model, ids[path][None])[0]) for path in paths)


def _additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(sees, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)
