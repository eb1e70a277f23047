"""A judge that is a model: the score `AutoModelForSequenceClassification` gives the completion's last token.

It sees the prompt and the completion, never the reference answer. K completions of a prompt share one pass over it.
Completions that were sampled with another tokenizer are read as text.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tropism.models.forward import predict_scores, takes_trees
from tropism.models.store import context_of, load_scalar
from tropism.tensors.batch import collate
from tropism.text import tokenizer
from tropism.text.chat import text_of
from tropism.train.trees import spans, tree
from tropism.types import Completion, Group, Judgment, ModelRef

__all__ = ["RewardModel"]


@dataclass(frozen=True)
class RewardModel:
    """`pass_tokens` bounds the tokens of one forward pass."""

    model: ModelRef
    pass_tokens: int = 8192

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        model, words = _loaded(self.model)
        trees = [tree(_own(g, words), words, context_of(model)) for g in groups]
        scores: list[float] = []
        with torch.inference_mode():
            for piece in spans(trees, self.pass_tokens):
                batch = collate(piece, row_tokens=256, shared=takes_trees(model), twins=True).to(model.device)
                scores += predict_scores(model, batch).tolist()
        rest = iter(scores)
        return [Judgment("reward_model@1", tuple(next(rest) for _ in group.completions)) for group in groups]


def _own(group: Group, words: Any) -> Group:
    """The group without tokens that do not spell its text in this tokenizer."""

    def own(completion: Completion) -> bool:
        tokens = completion.tokens or ()
        return max(tokens, default=0) < len(words) and text_of(words, tokens).startswith(completion.text)

    kept = (
        c if own(c) else dataclasses.replace(c, tokens=None, sampled=None, logprobs=None) for c in group.completions
    )
    return dataclasses.replace(group, completions=tuple(kept))


@functools.lru_cache(maxsize=2)
def _loaded(path: str) -> tuple[Any, Any]:
    return load_scalar(path), tokenizer.load(path)
