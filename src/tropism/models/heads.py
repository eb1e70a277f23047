"""Log-probabilities of chosen tokens through a head that is one linear layer, without logits in memory.

    l = (W h + b) / temperature      log p = l_chosen − log Σ exp l      H = log Σ exp l − Σ p l

Logits are computed some rows at a time and forgotten. The backward pass, which gets g = d loss / d log p, computes those
of a chunk again, and from them at once

    dl = g (1[chosen] − p) / temperature      dh = dl W      dW = dlᵀ h      db = Σ dl

Chunks are so small that they stay in the processor's cache, so this is also faster than keeping logits. The idea is that
of Liger's cross-entropy (arXiv 2410.10989), which makes the gradient in the forward pass; it has the mean of a loss, while
here each token's g is only known later.

Left out, as the model's own code does it (`models/halves.py:logits`): heads that do more (a cap, a scale, a transform),
top-k and top-p, and entropies with a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tropism.models.functional import linear_head
from tropism.tensors.maths import NEVER

CHUNK = 1 << 19  # logits at once, 2 MiB of float32, unless ROWS are more
ROWS = 256  # of a chunk at least, for the matrix products


def plain_head(model: PreTrainedModel) -> nn.Linear | None:
    """The model's head if all it does is one linear layer."""
    head, cap = linear_head(model) or (None, None)
    return head if cap is None else None


def chosen_by(
    head: nn.Linear, states_MD: Tensor, tokens_M: Tensor, temperature: float, absent_V: Tensor | None, entropies: bool
) -> tuple[Tensor, Tensor]:
    """(M,) log-probabilities of the tokens, and (M,) entropies without a gradient, 0 unless asked for. `absent_V` is
    True for ids that no text can have."""
    found = _Chosen.apply(
        states_MD.to(head.weight.dtype), head.weight, head.bias, tokens_M, temperature, absent_V, entropies
    )
    return found  # type: ignore[return-value]


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        tokens_M: Tensor,
        temperature: float,
        absent_V: Tensor | None,
        entropies: bool,
    ) -> tuple[Tensor, Tensor]:
        logprobs_M = states_MD.new_empty(len(states_MD), dtype=torch.float32)
        entropy_M = torch.zeros_like(logprobs_M)
        for rows in _chunks(states_MD, weight_VD):
            logp_MV = _logits(states_MD[rows], weight_VD, bias_V, temperature, absent_V).log_softmax(-1)
            logprobs_M[rows] = logp_MV.gather(1, tokens_M[rows, None])[:, 0]
            if entropies:
                entropy_M[rows] = -torch.linalg.vecdot(logp_MV.exp(), logp_MV)
        ctx.save_for_backward(states_MD, weight_VD, bias_V, tokens_M, absent_V)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_M)
        return logprobs_M, entropy_M

    @staticmethod
    def backward(ctx: Any, slope_M: Tensor, _: Tensor) -> tuple[Any, ...]:
        states_MD, weight_VD, bias_V, tokens_M, absent_V = ctx.saved_tensors
        slope_M = slope_M / ctx.temperature
        dstates_MD = torch.empty_like(states_MD)
        dweight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        dbias_V = torch.zeros_like(bias_V) if ctx.needs_input_grad[2] else None
        for rows in _chunks(states_MD, weight_VD):
            p_MV = _logits(states_MD[rows], weight_VD, bias_V, ctx.temperature, absent_V).softmax(-1)
            p_MV.mul_(-slope_M[rows, None]).scatter_add_(1, tokens_M[rows, None], slope_M[rows, None])
            dl_MV = p_MV.to(weight_VD.dtype)
            torch.mm(dl_MV, weight_VD, out=dstates_MD[rows])
            if dweight_VD is not None:
                dweight_VD.addmm_(dl_MV.T, states_MD[rows])
            if dbias_V is not None:
                dbias_V += dl_MV.sum(0)
        return dstates_MD, dweight_VD, dbias_V, None, None, None, None


def _chunks(states_MD: Tensor, weight_VD: Tensor) -> list[slice]:
    step = max(ROWS, CHUNK // len(weight_VD))
    return [slice(i, i + step) for i in range(0, len(states_MD), step)]


def _logits(
    states_MD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, temperature: float, absent_V: Tensor | None
) -> Tensor:
    """(M, V), in float32."""
    logits_MV = nn.functional.linear(states_MD, weight_VD, bias_V).float()
    if temperature != 1.0:
        logits_MV = logits_MV.div_(temperature)
    return logits_MV if absent_V is None else logits_MV.masked_fill_(absent_V, NEVER)
