"""A judge that is a model: the score `AutoModelForSequenceClassification` gives the completion's last token, or of a
reward model that is a causal LM the likelihood of the completion (`score = "likelihood"` of the reward stage).

It sees the prompt and the completion, never the reference answer. K completions of a prompt share one pass over it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tropism.models.forward import predict_scores
from tropism.models.store import context_of, frozen_scorer
from tropism.text import tokenizer
from tropism.train.layout import layout
from tropism.train.trees import spans, tree
from tropism.types import Group, Judgment, ModelRef

__all__ = ["RewardModel"]


@dataclass(frozen=True)
class RewardModel:
    """`pass_tokens` bounds the tokens of one forward pass."""

    model: ModelRef
    pass_tokens: int = 8192

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        model, words = _loaded(self.model)
        trees = [tree(g, words, context_of(model)) for g in groups]
        scores: list[float] = []
        with torch.inference_mode():
            for piece in spans(trees, self.pass_tokens):
                batch = layout(piece, model, ("scores_N",))
                scores += predict_scores(model, batch).tolist()
        rest = iter(scores)
        return [Judgment("reward_model@1", tuple(next(rest) for _ in group.completions)) for group in groups]


@functools.lru_cache(maxsize=8)  # as many as an ensemble has
def _loaded(path: str) -> tuple[Any, Any]:
    return frozen_scorer(path), tokenizer.load(path)
