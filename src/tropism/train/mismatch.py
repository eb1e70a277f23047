"""How far the engine's log-probabilities are from the trainer's, and weights that correct for it.

    weight_t = min(pi_trainer(y_t) / pi_engine(y_t), cap)            of the policy that sampled, before any update

The ratio of an algorithm then starts from the trainer's log-probability, and the credit of each token is multiplied by its
weight: truncated importance sampling (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
training"). For a clipped loss this is the loss times the weight, as a weight is positive. In float32 both sides are one
model and every weight is 1 up to rounding (docs/decisions/0006), so only a small part of a round is measured then. Left
out: weights of whole sequences, whose variance grows with their length.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from tropism.errors import TropismError
from tropism.models.forward import predict_tokens
from tropism.tensors.batch import Batch
from tropism.tensors.rows import passes, take_rows
from tropism.types import SamplingParams


@torch.no_grad()
def compared(
    batch: Batch, policy: PreTrainedModel, sampling: SamplingParams, pass_tokens: int, cap: float
) -> tuple[Batch, dict[str, float]]:
    """The batch, with credit, of a round's samples, and the mean and the largest |difference| in nats.

    With a `cap` above 0 all tokens are compared, `old_logprobs_BT` become the trainer's and advantages are weighted. With
    0 the first group is compared and the batch stays as it is.
    """
    mask = batch.loss_mask_BT
    if not cap:
        piece = take_rows(batch, passes(batch, 1)[0])
        mine, mask = predict_tokens(policy, piece, sampling).need("logprobs_BT"), piece.loss_mask_BT
        return batch, _apart(mine, piece.need("old_logprobs_BT"), mask)
    if batch.advantages_BT is None:
        raise TropismError("importance_cap weights advantages, and the algorithm has none: set it to 0")
    engine = batch.need("old_logprobs_BT")
    pieces = [take_rows(batch, rows) for rows in passes(batch, pass_tokens)]
    mine = torch.cat([predict_tokens(policy, piece, sampling).need("logprobs_BT") for piece in pieces])
    weight = torch.where(mask, (mine - engine).exp().clamp(max=cap), 1.0)
    changed = batch.replace(old_logprobs_BT=mine, advantages_BT=batch.advantages_BT * weight)
    share = float((weight[mask] == cap).float().mean()) if mask.any() else 0.0
    return changed, {**_apart(mine, engine, mask), "engine_truncated": share}


def _apart(mine: torch.Tensor, engine: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    apart = (mine - engine)[mask].abs()
    return {"engine_apart": float(apart.mean()), "engine_apart_max": float(apart.max())} if len(apart) else {}
