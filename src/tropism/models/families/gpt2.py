"""GPT-2 (Radford et al. 2019): learned positions, layer normalisation, x += attention(norm(x)), x += mlp(norm(x))."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tropism.models.attend import Attend, Forward, LayerSpec
from tropism.models.families._parts import ACTIVATIONS

NAMES = ("GPT2Model",)


def forward(model: Any) -> Forward | None:
    """The forward pass of one of the models `NAMES`, None if its config asks for something else."""
    blocks, last, act = list(model.h), model.ln_f, ACTIVATIONS.get(model.config.activation_function)
    heads = [block.attn.num_heads for block in blocks]
    if act is None:
        return None
    specs = [LayerSpec(n, n, block.attn.head_dim, block.attn.scaling) for n, block in zip(heads, blocks)]

    def run(tokens_BT: Tensor, position_BT: Tensor, attend: Attend) -> Tensor:
        x_MD = F.embedding(tokens_BT.flatten(), model.wte.weight)
        x_MD = x_MD + F.embedding(position_BT.flatten(), model.wpe.weight)
        for i, (block, spec) in enumerate(zip(blocks, specs)):
            qkv = _linear(_norm(x_MD, block.ln_1), block.attn.c_attn)
            q, k, v = qkv.view(*tokens_BT.shape, 3, spec.heads, spec.size).permute(2, 0, 3, 1, 4)
            x_MD.add_(_linear(attend(i, q, k, v).flatten(0, 1), block.attn.c_proj))
            inner = act(_linear(_norm(x_MD, block.ln_2), block.mlp.c_fc))
            x_MD.add_(_linear(inner, block.mlp.c_proj))
        return _norm(x_MD, last).view(*tokens_BT.shape, -1)

    return Forward(specs, run)


def _linear(x_MD: Tensor, part: Any) -> Tensor:
    return torch.addmm(part.bias, x_MD, part.weight)


def _norm(x_MD: Tensor, part: Any) -> Tensor:
    return F.layer_norm(x_MD, part.normalized_shape, part.weight, part.bias, part.eps)
