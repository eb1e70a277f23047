"""A pass through a model's own modules whose attention is someone else's, by transformers' `AttentionInterface`.

All configs of the model name our function during the pass. Masks are not built, as none is registered under that name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from tropism.models.halves import backbone, text_config
from tropism.models.masks import SLIDING

NAME = "tropism_pages"
Attention = Callable[[int, Tensor, Tensor, Tensor, float, float | None, Tensor | None], Tensor]
_current: ContextVar[Attention] = ContextVar("attention")
IGNORED = {"attention_mask", "dropout", "is_causal", "sliding_window", "position_ids", "use_cache", "output_attentions"}


def configs_of(model: PreTrainedModel) -> list[Any]:
    """The configs that the modules of a model read."""
    return [*{id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}.values()]


def run_modules(
    model: PreTrainedModel, configs: list[Any], tokens_1N: Tensor, position_1N: Tensor, attention: Attention
) -> Tensor:
    """(1, N, width) last hidden states of tokens of any sequences, in one row."""
    part = backbone(model)  # found by plain calls of the model
    with _handed(configs, attention):
        out = part(input_ids=tokens_1N, position_ids=position_1N, use_cache=False)
    return out.last_hidden_state


def layer_windows(model: PreTrainedModel) -> list[int | None]:
    """How far each layer looks back; None: to the beginning."""
    config: Any = text_config(model)
    kinds = getattr(config, "layer_types", None) or get_layer_types_and_kwargs(config)[0]
    return [config.sliding_window if kind == SLIDING else None for kind in kinds]


@contextlib.contextmanager
def _handed(configs: list[Any], attention: Attention) -> Iterator[None]:
    before = [(config, config._attn_implementation_internal) for config in configs]
    token = _current.set(attention)
    try:
        for config in configs:
            config._attn_implementation_internal = NAME
        yield
    finally:
        for config, name in before:
            config._attn_implementation_internal = name
        _current.reset(token)


def _attend(
    module: Any, q: Tensor, k: Tensor, v: Tensor, attention_mask: Any, scaling: float | None = None,
    softcap: float | None = None, s_aux: Tensor | None = None, **options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """`s_aux` (heads,): a score that takes part in the softmax and has no value."""
    unknown = [name for name, value in options.items() if value is not None and name not in IGNORED]
    if unknown or attention_mask is not None:
        raise NotImplementedError(f"attention with {unknown or 'a mask'}")
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    return _current.get()(module.layer_idx, q, k, v, scale, softcap, s_aux), None


AttentionInterface.register(NAME, _attend)
