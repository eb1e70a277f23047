"""Which ids of a model have a token: embeddings are often padded beyond the tokenizer, and some vocabularies have gaps.

Ids without a token have probability 0: they are never sampled, and the probabilities of the others add up to 1. This
holds in the engine and in the trainer, since both use `halves.logits`.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tropism.errors import TropismError
from tropism.models.halves import vocabulary_of


def know(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tells a language model which of its ids the tokenizer has.

    Raises TropismError if the tokenizer can give plain text an id for which the model has no embedding.
    """
    rows, head = vocabulary_of(model), model.get_output_embeddings()
    ids = tokenizer.get_vocab().values()
    special = set(tokenizer.added_tokens_decoder)
    if (beyond := max((i for i in ids if i not in special), default=0)) >= rows:
        raise TropismError(
            f"the tokenizer has the token {beyond}, but the model {model.name_or_path or type(model).__name__} has "
            f"{rows} tokens: use the tokenizer that belongs to the model"
        )
    size = head.get_parameter("weight").shape[0] if head is not None else rows
    absent_V = torch.ones(size, dtype=torch.bool, device=model.device)
    absent_V[torch.tensor([i for i in ids if i < size], dtype=torch.long, device=model.device)] = False
    model.__dict__["absent_V"] = absent_V if absent_V.any() else None
