"""GPT-NeoX (arXiv 2204.06745), so Pythia: layer normalisation, rotary positions on a part of each head.

x += attention(norm(x)) + mlp(other norm(x))      or one after the other, as in GPT-2
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from tropism.models.attend import Attend, Forward, LayerSpec
from tropism.models.families._parts import ACTIVATIONS, FIXED, Rotary, turned

NAMES = ("GPTNeoXModel",)


def forward(model: Any) -> Forward | None:
    """The forward pass of one of the models `NAMES`, None if its config asks for something else."""
    config, blocks, last = model.config, list(model.layers), model.final_layer_norm
    act, rotary, heads = ACTIVATIONS.get(config.hidden_act), Rotary(model.rotary_emb), config.num_attention_heads
    if act is None or rotary.type not in FIXED:
        return None
    specs = [LayerSpec(heads, heads, block.attention.head_size, block.attention.scaling) for block in blocks]

    def run(tokens_BT: Tensor, position_BT: Tensor, attend: Attend) -> Tensor:
        x_MD = F.embedding(tokens_BT.flatten(), model.embed_in.weight)
        turn = rotary(position_BT.flatten(), x_MD.dtype)
        for i, (block, spec) in enumerate(zip(blocks, specs)):
            qkv = _linear(_norm(x_MD, block.input_layernorm), block.attention.query_key_value)
            qkv = qkv.view(-1, heads, 3, spec.size)
            q, k = turned(qkv[:, :, :2].transpose(1, 2).flatten(1, 2), turn).split(heads, 1)
            q, k, v = (t.unflatten(0, tokens_BT.shape).transpose(1, 2) for t in (q, k, qkv[:, :, 2]))
            mixed = _linear(attend(i, q, k, v).flatten(0, 1), block.attention.dense)
            before = x_MD if block.use_parallel_residual else x_MD + mixed
            inner = act(_linear(_norm(before, block.post_attention_layernorm), block.mlp.dense_h_to_4h))
            x_MD = x_MD.add_(mixed).add_(_linear(inner, block.mlp.dense_4h_to_h))
        return _norm(x_MD, last).view(*tokens_BT.shape, -1)

    return Forward(specs, run)


def _linear(x_MD: Tensor, part: Any) -> Tensor:
    return F.linear(x_MD, part.weight, part.bias)


def _norm(x_MD: Tensor, part: Any) -> Tensor:
    return F.layer_norm(x_MD, part.normalized_shape, part.weight, part.bias, part.eps)
