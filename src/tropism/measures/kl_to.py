"""KL to the model that all are compared with: the mean log-ratio of a model's own samples, in nats per completion.

It needs samples (not greedy answers), and the same tokens for both models; otherwise the reason is given instead. A
model is not compared with itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tropism import statistics
from tropism.models.folder import context_of, load_lm
from tropism.models.forward import predict_tokens
from tropism.models.layout import layout
from tropism.statistics import Figure
from tropism.tensors.encode import PASS_TOKENS, spans, tree
from tropism.tensors.index import sum_by_completion
from tropism.text.tokenizer import load_tokenizer
from tropism.types import About, Drawn, Evaluation, Group, SamplingParams

__all__ = ["KLTo"]


@dataclass(frozen=True)
class KLTo:
    """The mean KL of the samples."""

    about: ClassVar[About] = About("kl_to_{over}", "KL to {over}, nats per completion", "nats", order=90)

    def measure(self, found: Evaluation, drawn: Drawn) -> Mapping[str, Figure | str]:
        others = found.others()
        if not others:
            return {}
        reference, tokenizer = load_lm(found.models[found.over]), load_tokenizer(found.models[found.over])
        return {name: self._kl(found, name, found.answers[name][drawn], reference, tokenizer) for name in others}

    def _kl(
        self,
        found: Evaluation,
        name: str,
        groups: Sequence[Group],
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> Figure | str:
        """The KL of one model, or why it has none."""
        if found.sampling.temperature == 0:
            return "at temperature 0 nothing is sampled"
        if raw := [n for n in (name, found.over) if n in found.plain]:
            return f"{raw[0]} gets its prompts as raw text"
        if name in found.searched:
            return "a search chose the answers, so their probabilities are not known"
        if load_tokenizer(found.models[name]).get_vocab() != tokenizer.get_vocab():
            return f"its tokens are not those of {found.over}"
        if any(c.logprobs is None for g in groups for c in g.completions):
            return "some answers have no log-probabilities"
        nats = kl_by_prompt(groups, reference, tokenizer, found.sampling)
        if not all(map(math.isfinite, nats)):
            return f"some answers are impossible for {found.over} with this top_k and top_p"
        return statistics.mean(nats)


@torch.inference_mode()
def kl_by_prompt(
    groups: Sequence[Group], reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: SamplingParams
) -> list[float]:
    """Nats per completion for each prompt, on the policy's own samples."""
    ratios: list[float] = []
    for piece in spans([tree(g, tokenizer, context_of(reference)) for g in groups], PASS_TOKENS):
        batch = layout(piece, reference)
        there = predict_tokens(reference, batch, sampling).need("logprobs_BT")
        ratios += sum_by_completion(batch.need("old_logprobs_BT") - there, batch).tolist()
    rest = iter(ratios)
    rows = [[next(rest) for _ in g.completions] for g in groups]
    return [sum(row) / len(row) for row in rows]
