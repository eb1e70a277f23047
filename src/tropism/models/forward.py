"""Predictions of models for a Batch: log-probabilities, values, scores. Works with unmodified Hugging Face models.

Only trained tokens go through the LM head, in chunks, so B x T x V logits are never in memory at once. A model that
cannot use a tree mask (for example one with linear attention) gets padded rows: see `masks.takes_trees` and
`collate(shared=…)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tropism.errors import TropismError
from tropism.models.halves import check_ids, logits, states_of, vocabulary_of
from tropism.models.heads import chosen_by, plain_head
from tropism.models.layout import cheapest
from tropism.models.masks import takes_trees
from tropism.models.trees import is_compiled, states_on_blocks
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.index import mean_so_far
from tropism.tensors.maths import chosen_logprobs, entropy
from tropism.types import SamplingParams

CHUNK = 1 << 24  # logits in memory at once: 64 MiB of float32
Compare = Callable[[Tensor, Tensor], Tensor]  # (M, V) logits of the policy, (M, V) of the teacher -> (M,)


def hidden(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(B * T, width) last hidden states; those of padding are not defined."""
    check_ids(model, int(batch.tokens_BT.max()))
    if not batch.shared:  # one sequence in each row, with padding after it, which no token of a causal model sees
        if is_compiled(model):
            return states_on_blocks(model, batch)
        return states_of(model, batch.tokens_BT).flatten(0, 1)
    if not takes_trees(model):  # the layout was chosen for another model of the stage
        raise TropismError(
            f"{type(model).__name__} cannot use rows that completions share, but another model of the "
            "stage does: use two models of the same family"
        )
    return cheapest(model, batch)(model, batch)


def parents(batch: Batch) -> tuple[Tensor, Tensor]:
    """Flat indices of the trained tokens, and of the columns that predict them."""
    width = batch.tokens_BT.shape[1]
    flat_M = batch.loss_mask_BT.flatten().nonzero()[:, 0]
    return flat_M, flat_M // width * width + batch.parent_BT.flatten()[flat_M]


def predict_tokens(
    model: PreTrainedModel,
    batch: Batch,
    sampling: SamplingParams | None = None,
    entropies: bool = False,
    bonus: bool = False,
) -> Prediction:
    """Log-probabilities (and entropies) of the trained tokens, under the distribution that `sampling` samples from.

    Entropies have a gradient, which needs memory, only with `bonus`.
    """
    shape: dict[str, Any] = {}
    if sampling is not None and sampling.temperature > 0:
        shape = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    flat_M, parent_M = parents(batch)
    states_MD = hidden(model, batch).index_select(0, parent_M)
    tokens_M = batch.tokens_BT.flatten()[flat_M]
    cut = shape and (shape["top_k"] > 0 or shape["top_p"] < 1.0)
    if not bonus and not cut and (head := plain_head(model)) is not None:
        temperature, absent_V = shape.get("temperature", 1.0), model.__dict__.get("absent_V")
        logprobs_M, entropy_M = chosen_by(head, states_MD, tokens_M, temperature, absent_V, entropies)
        return Prediction(
            logprobs_BT=_spread(logprobs_M, flat_M, batch),
            entropy_BT=_spread(entropy_M, flat_M, batch) if entropies else None,
        )

    def score(states_MD: Tensor, tokens_M: Tensor) -> tuple[Tensor, Tensor]:
        logprobs_M, kept_MV = chosen_logprobs(logits(model, states_MD), tokens_M, **shape)
        with torch.set_grad_enabled(bonus and torch.is_grad_enabled()):
            return logprobs_M, entropy(kept_MV) if entropies or bonus else torch.zeros_like(logprobs_M)

    logprobs_M, entropy_M = _in_chunks(score, (states_MD, tokens_M), CHUNK // vocabulary_of(model))
    return Prediction(
        logprobs_BT=_spread(logprobs_M, flat_M, batch),
        entropy_BT=_spread(entropy_M.detach(), flat_M, batch) if entropies else None,
        entropy_bonus_BT=_spread(entropy_M, flat_M, batch) if bonus else None,
    )


def predict_divergence(policy: PreTrainedModel, teacher: PreTrainedModel, batch: Batch, compare: Compare) -> Tensor:
    """(B, T): `compare` of the policy's and the teacher's logits for each trained token; the teacher's have no
    gradient. Only ids that both models have are compared, as models may pad their embeddings beyond the tokenizer."""
    flat_M, parent_M = parents(batch)
    policy_MD = hidden(policy, batch).index_select(0, parent_M)
    with torch.no_grad():
        teacher_MD = hidden(teacher, batch).index_select(0, parent_M)

    def score(policy_MD: Tensor, teacher_MD: Tensor) -> tuple[Tensor]:
        with torch.no_grad():
            teacher_MV = logits(teacher, teacher_MD)
        policy_MV = logits(policy, policy_MD)
        both = min(policy_MV.shape[-1], teacher_MV.shape[-1])
        return (compare(policy_MV[:, :both], teacher_MV[:, :both]),)

    held = vocabulary_of(policy) + vocabulary_of(teacher)
    (divergence_M,) = _in_chunks(score, (policy_MD, teacher_MD), CHUNK // held)
    return _spread(divergence_M, flat_M, batch)


def predict_values(critic: PreTrainedModel, batch: Batch) -> Tensor:
    """(B, T): the critic's value of the state in which each trained token was chosen."""
    flat_M, parent_M = parents(batch)
    return _spread(_score(critic, hidden(critic, batch).index_select(0, parent_M)), flat_M, batch)


def predict_scores(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(N,): the reward model's score at the last token of each completion."""
    return predict_running_scores(model, batch).flatten()[batch.last_N]


def predict_running_scores(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(B, T): the reward model's score of the text up to and including each token.

    For a causal LM it is the mean log-probability of the tokens so far, with zero and unit as `set_units` stored them.
    """
    if hasattr(model, "score"):
        return _score(model, hidden(model, batch)).view_as(batch.tokens_BT)
    mean_BT = mean_so_far(predict_tokens(model, batch).need("logprobs_BT"), batch)
    return (mean_BT - getattr(model.config, "score_zero", 0.0)) / getattr(model.config, "score_unit", 1.0)


@torch.no_grad()
def set_units(model: PreTrainedModel, mean: float, std: float) -> None:
    """Rescales a reward model whose scores have this mean and standard deviation, so that they have mean 0 and standard
    deviation 1. With a score head only the scale changes, as the head has learned its zero."""
    if hasattr(model, "score"):
        model.get_submodule("score").get_parameter("weight").div_(std)
        return
    unit = getattr(model.config, "score_unit", 1.0)
    model.config.score_zero = getattr(model.config, "score_zero", 0.0) + mean * unit  # nats per token
    model.config.score_unit = unit * std


def _score(model: PreTrainedModel, states_MD: Tensor) -> Tensor:
    """(M,) scores; the score head may be float32 while the backbone has another dtype."""
    head = model.get_submodule("score")
    return head(states_MD.to(head.get_parameter("weight").dtype)).float()[:, 0]


def _in_chunks(score: Callable[..., tuple[Tensor, ...]], rows: tuple[Tensor, ...], at_once: int) -> list[Tensor]:
    """`score` of all rows, `at_once` at a time. If there are more, each chunk is computed again in the backward
    pass."""
    count, step = len(rows[0]), max(1, at_once)
    whole = count <= step or not torch.is_grad_enabled()
    parts = []
    for i in range(0, max(count, 1), step):
        chunk = [x[i : i + step] for x in rows]
        parts.append(score(*chunk) if whole else checkpoint(score, *chunk, use_reentrant=False))
    return [torch.cat(x) for x in zip(*parts)]


def _spread(x_M: Tensor, flat_M: Tensor, batch: Batch) -> Tensor:
    flat = torch.zeros(batch.tokens_BT.numel(), dtype=x_M.dtype, device=x_M.device)
    return flat.index_copy(0, flat_M, x_M).view_as(batch.tokens_BT)
