"""A judge that is a model: the score that `AutoModelForSequenceClassification` gives the last token of a completion. If
the reward model is a causal LM (`score = "likelihood"` of the reward stage), the score is the completion's likelihood.

It sees the prompt and the completion, never the reference answer. The prompt is computed once for its K completions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge

from tropism.models.folder import context_of, frozen_scorer
from tropism.models.forward import predict_scores
from tropism.models.layout import layout
from tropism.tensors.encode import TooLong, spans, tree
from tropism.tensors.tree import Tree
from tropism.text.tokenizer import load_tokenizer
from tropism.types import Completion, Group, Judgment, ScorerRef

__all__ = ["RewardModel"]


@dataclass(frozen=True)
class RewardModel:
    """`pass_tokens` limits the tokens of one forward pass. A completion that does not fit the reward model's context
    has the score None."""

    model: ScorerRef
    pass_tokens: Annotated[int, Ge(1)] = 8192

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        model, tokenizer = _loaded(self.model)
        context = context_of(model)
        found = [_read(g, tokenizer, context) for g in groups]
        trees = [t for t, _ in found if t]
        scores: list[float] = []
        with torch.inference_mode():
            for piece in spans(trees, self.pass_tokens):
                batch = layout(piece, model, ("scores_N",))
                scores += predict_scores(model, batch).tolist()
        rest = iter(scores)
        return [
            Judgment("reward_model@1", tuple(next(rest) if f else None for f in fits), tokens=read.size if read else 0)
            for read, fits in found
        ]


def _read(group: Group, tokenizer: Any, context: int) -> tuple[Tree | None, list[bool]]:
    """A tree of the completions that fit the context, and for each completion whether it does."""

    def read(completions: tuple[Completion, ...]) -> Tree | None:
        with contextlib.suppress(TooLong):
            return tree(dataclasses.replace(group, completions=completions), tokenizer, context)

    if whole := read(group.completions):
        return whole, [True] * len(group.completions)
    fits = [read((c,)) is not None for c in group.completions]
    kept = tuple(c for c, fit in zip(group.completions, fits) if fit)
    return read(kept) if kept else None, fits


@functools.lru_cache(maxsize=8)  # as many as an ensemble has
def _loaded(path: str) -> tuple[Any, Any]:
    return frozen_scorer(path), load_tokenizer(path)
