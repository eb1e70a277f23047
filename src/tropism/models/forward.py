"""What models say of a Batch: log-probabilities, values, scores. Works on unmodified Hugging Face models.

Only trained tokens go through the LM head, in chunks, so B x T x V logits never exist. A model that cannot take a tree
mask (sliding windows, linear attention) gets padded rows: `takes_trees` says which, `collate(shared=…)` obeys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tropism.tensors.batch import Batch, Prediction, mean_so_far, tree_mask
from tropism.tensors.maths import chosen_logprobs, entropy
from tropism.types import SamplingParams

CHUNK = 1 << 24  # logits held at once: 64 MiB of float32


def takes_trees(model: PreTrainedModel) -> bool:
    """Whether every layer is full attention, so that a (B, 1, T, T) mask means what it says."""
    config = model.config
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    heads = getattr(config, "num_attention_heads", 0)
    plain = not window_of(model) and not getattr(config, "alibi", False)
    return bool(heads) and set(kinds) == {"full_attention"} and plain


def window_of(model: PreTrainedModel) -> int:
    """How many tokens a sliding-window layer looks back over; 0 if the model has none."""
    on = getattr(model.config, "use_sliding_window", True)
    return int(getattr(model.config, "sliding_window", None) or 0) if on else 0


def hidden(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(B * T, width) last hidden states."""
    dtype = next(model.parameters()).dtype
    options: dict[str, Any] = {}
    if batch.shared:
        mask = tree_mask(batch)
        floor = torch.finfo(dtype).min
        options["attention_mask"] = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, floor)
        options["position_ids"] = batch.position_BT
    else:  # one sequence a row: a plain padding mask, so that the model's own attention pattern applies
        real = (batch.position_BT > 0) | (torch.arange(batch.tokens_BT.shape[1], device=batch.tokens_BT.device) == 0)
        options["attention_mask"] = real.long()
    out = model.base_model(input_ids=batch.tokens_BT, use_cache=False, **options)
    return out.last_hidden_state.flatten(0, 1)


def parents(batch: Batch) -> tuple[Tensor, Tensor]:
    """Flat indices of the trained tokens, and of the columns that predict them."""
    width = batch.tokens_BT.shape[1]
    flat_M = batch.loss_mask_BT.flatten().nonzero()[:, 0]
    return flat_M, flat_M // width * width + batch.parent_BT.flatten()[flat_M]


def logits(model: PreTrainedModel, states_MD: Tensor) -> Tensor:
    """(M, V) next-token logits, in float32, of last hidden states."""
    head: Any = model.get_output_embeddings()
    scores_MV = head(states_MD).float()
    config = model.config
    scale = getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)
    scores_MV = scores_MV if scale == 1.0 else scores_MV * scale
    softcap = getattr(config, "final_logit_softcapping", None)
    return torch.tanh(scores_MV / softcap) * softcap if softcap else scores_MV


def predict_tokens(
    model: PreTrainedModel, batch: Batch, sampling: SamplingParams | None = None, entropies: bool = False
) -> Prediction:
    """Log-probabilities (and entropies) of the trained tokens, under the distribution that `sampling` samples from."""
    shape: dict[str, Any] = {}
    if sampling is not None and sampling.temperature > 0:
        shape = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    flat_M, parent_M = parents(batch)
    states_MD = hidden(model, batch).index_select(0, parent_M)
    tokens_M = batch.tokens_BT.flatten()[flat_M]

    def score(states_MD: Tensor, tokens_M: Tensor) -> tuple[Tensor, Tensor]:
        logprobs_M, kept_MV = chosen_logprobs(logits(model, states_MD), tokens_M, **shape)
        with torch.no_grad():
            return logprobs_M, entropy(kept_MV) if entropies else torch.zeros_like(logprobs_M)

    step = max(1, CHUNK // model.config.vocab_size)
    parts = []
    for i in range(0, max(len(flat_M), 1), step):
        inputs = (states_MD[i : i + step], tokens_M[i : i + step])
        whole = len(flat_M) <= step or not torch.is_grad_enabled()
        parts.append(score(*inputs) if whole else checkpoint(score, *inputs, use_reentrant=False))
    logprobs_M, entropy_M = (torch.cat(x) for x in zip(*parts))
    return Prediction(
        logprobs_BT=_spread(logprobs_M, flat_M, batch),
        entropy_BT=_spread(entropy_M, flat_M, batch) if entropies else None,
    )


def predict_values(critic: PreTrainedModel, batch: Batch) -> Tensor:
    """(B, T): the critic's value of the state each trained token was chosen in."""
    flat_M, parent_M = parents(batch)
    return _spread(_score(critic, hidden(critic, batch).index_select(0, parent_M)), flat_M, batch)


def predict_scores(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(N,): the reward model's score, read at each completion's last token."""
    return predict_running_scores(model, batch).flatten()[batch.last_N]


def predict_running_scores(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(B, T): the reward model's score of everything up to and including each token.

    Of a causal LM that is the mean log-probability of the tokens so far, in its own zero and unit (`set_units`).
    """
    if hasattr(model, "score"):
        return _score(model, hidden(model, batch)).view_as(batch.tokens_BT)
    mean_BT = mean_so_far(predict_tokens(model, batch).need("logprobs_BT"), batch)
    return (mean_BT - getattr(model.config, "score_zero", 0.0)) / getattr(model.config, "score_unit", 1.0)


@torch.no_grad()
def set_units(model: PreTrainedModel, mean: float, std: float) -> None:
    """Makes the reward model's scores, which have this mean and standard deviation, have 0 and 1. A head's zero is
    learned: of a causal LM only."""
    if hasattr(model, "score"):
        model.get_submodule("score").get_parameter("weight").div_(std)
        return
    unit = getattr(model.config, "score_unit", 1.0)
    model.config.score_zero = getattr(model.config, "score_zero", 0.0) + mean * unit  # nats a token
    model.config.score_unit = unit * std


def _score(model: PreTrainedModel, states_MD: Tensor) -> Tensor:
    """(M,): the score head may be float32 on a backbone of another dtype."""
    head = model.get_submodule("score")
    return head(states_MD.to(head.get_parameter("weight").dtype)).float()[:, 0]


def _spread(x_M: Tensor, flat_M: Tensor, batch: Batch) -> Tensor:
    flat = torch.zeros(batch.tokens_BT.numel(), dtype=x_M.dtype, device=x_M.device)
    return flat.index_copy(0, flat_M, x_M).view_as(batch.tokens_BT)
