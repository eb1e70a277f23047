"""Llama (arXiv 2302.13971), Mistral, Qwen 2 and 3, and the text models of Gemma 1, 2 and 3.

    x += norm(attention(norm(x)))      x += norm(down(act(gate(norm(x))) * up(norm(x))))

The outer norms are Gemma 2's and 3's; Qwen 3 and Gemma 3 normalise queries and keys as well. A norm of Gemma multiplies by
1 + weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tropism.models.attend import Attend, Forward, LayerSpec
from tropism.models.families._parts import (
    ACTIVATIONS,
    FIXED,
    SILU,
    Activation,
    Rotary,
    Turn,
    add_linear,
    gated,
    rms,
    rms_plus_one,
    side_by_side,
    turned,
)
from tropism.models.step import Layer as StepLayer
from tropism.models.step import Step
from tropism.tensors import native

NAMES = (
    "LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model", "GemmaModel", "Gemma2Model", "Gemma3TextModel",
)  # fmt: skip
Norm = Callable[[Tensor], Tensor]


class _Block(NamedTuple):
    before_attention: Norm
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    query_norm: Norm | None
    key_norm: Norm | None
    after_attention: Norm | None
    before_mlp: Norm
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear
    act: Activation
    after_mlp: Norm | None
    rotary: int  # which of the rotary positions


def forward(model: Any) -> Forward | None:
    """The forward pass of one of the models `NAMES`, None if its config asks for something else."""
    config, layers = model.config, list(model.layers[: model.config.num_hidden_layers])
    kinds = sorted(model.rotary_emb.rope_type) if isinstance(model.rotary_emb.rope_type, dict) else [None]
    rotary = [Rotary(model.rotary_emb, kind) for kind in kinds]
    act = ACTIVATIONS.get(getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", ""))
    causal = all(layer.self_attn.is_causal for layer in layers)
    if act is None or not causal or any(turn.type not in FIXED for turn in rotary):
        return None
    which = [kinds.index(config.layer_types[i]) if len(kinds) > 1 else 0 for i in range(len(layers))]
    blocks = [_block(layer, act, number) for layer, number in zip(layers, which)]
    specs = [_spec(layer.self_attn, config) for layer in layers]
    embed, last, scale = model.embed_tokens, _norm(model.norm), getattr(model.embed_tokens, "embed_scale", None)

    def begin(tokens_M: Tensor, position_M: Tensor) -> tuple[Tensor, list[Turn]]:
        x_MD = F.embedding(tokens_M, embed.weight)
        if scale is not None:
            x_MD = x_MD * scale.to(x_MD.dtype)
        return x_MD, [turn(position_M, x_MD.dtype) for turn in rotary]

    def run(tokens_BT: Tensor, position_BT: Tensor, attend: Attend) -> Tensor:
        x_MD, turns = begin(tokens_BT.flatten(), position_BT.flatten())
        for i, (block, spec) in enumerate(zip(blocks, specs)):
            heads_MHS = side_by_side(block.before_attention(x_MD), block.query, block.key, block.value)
            heads_MHS = heads_MHS.view(len(x_MD), -1, spec.size)
            v_MHS, both = heads_MHS[:, -spec.kv_heads :], _normed(heads_MHS[:, : -spec.kv_heads], block, spec)
            q_MHS, k_MHS = turned(both, turns[block.rotary]).split((spec.heads, spec.kv_heads), 1)
            q, k, v = (t.unflatten(0, tokens_BT.shape).transpose(1, 2) for t in (q_MHS, k_MHS, v_MHS))
            x_MD = _added(x_MD, attend(i, q, k, v).flatten(0, 1), block.out, block.after_attention)
            h_MD = block.before_mlp(x_MD)
            inner = gated(block.act, _linear(h_MD, block.gate), _linear(h_MD, block.up))
            x_MD = _added(x_MD, inner, block.down, block.after_mlp)
        return last(x_MD).view(*tokens_BT.shape, -1)

    return Forward(specs, run, _step(model, layers, blocks, specs, rotary))


def _step(
    model: Any, layers: list[Any], blocks: list[_Block], specs: list[LayerSpec], rotary: list[Rotary]
) -> Step | None:
    """The compiled step of models without Gemma's peculiarities."""
    block, spec = blocks[0], specs[0]
    norms = [part for layer in (model, *layers) for part in layer.modules() if hasattr(part, "variance_epsilon")]
    eps = {part.variance_epsilon for part in norms}
    embed = model.embed_tokens
    odd = (
        hasattr(embed, "embed_scale")
        or block.after_attention
        or block.after_mlp
        or block.act is not SILU
        or spec.softcap
    )
    if odd or len(eps) != 1 or len(rotary) != 1 or not native.has("one_step"):
        return None

    def weights(layer: Any) -> StepLayer:
        a, m = layer.self_attn, layer.mlp
        q_norm, k_norm = (getattr(getattr(a, name, None), "weight", None) for name in ("q_norm", "k_norm"))
        return StepLayer(
            layer.input_layernorm.weight, a.q_proj.weight, a.k_proj.weight, a.v_proj.weight, a.q_proj.bias, a.k_proj.bias,
            a.v_proj.bias, q_norm, k_norm, a.o_proj.weight, a.o_proj.bias, layer.post_attention_layernorm.weight,
            m.gate_proj.weight, m.up_proj.weight, m.down_proj.weight, m.gate_proj.bias, m.up_proj.bias, m.down_proj.bias,
        )  # fmt: skip

    return Step(
        lambda position_M: rotary[0](position_M, torch.float32), lambda: embed.weight,
        lambda: [weights(layer) for layer in layers], lambda: model.norm.weight, spec.heads, spec.kv_heads, spec.size,
        spec.scale, eps.pop(), [spec.window or 0 for spec in specs],
    )  # fmt: skip


def _normed(both_MHS: Tensor, block: _Block, spec: LayerSpec) -> Tensor:
    """Queries and keys, normalised if the family does."""
    if block.query_norm is None or block.key_norm is None:
        return both_MHS
    q_MHS, k_MHS = both_MHS.split((spec.heads, spec.kv_heads), 1)
    return torch.cat((block.query_norm(q_MHS), block.key_norm(k_MHS)), 1)


def _linear(x_MD: Tensor, part: nn.Linear) -> Tensor:
    return F.linear(x_MD, part.weight, part.bias)


def _added(x_MD: Tensor, inner: Tensor, part: nn.Linear, norm: Norm | None) -> Tensor:
    return add_linear(x_MD, inner, part) if norm is None else x_MD.add_(norm(_linear(inner, part)))


def _norm(module: Any) -> Norm:
    if hasattr(module, "variance_epsilon"):
        return lambda x: rms(x, module.weight, module.variance_epsilon)
    return lambda x: rms_plus_one(x, module.weight, module.eps)


def _spec(attention: Any, config: Any) -> LayerSpec:
    window = config.sliding_window if type(attention).__name__ == "MistralAttention" else None
    return LayerSpec(
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        size=attention.head_dim,
        scale=attention.scaling,
        window=getattr(attention, "sliding_window", window),
        softcap=config.attn_logit_softcapping if type(attention).__name__ == "Gemma2Attention" else None,
    )


def _block(layer: Any, act: Activation, rotary: int) -> _Block:
    attention, mlp = layer.self_attn, layer.mlp
    sandwich = hasattr(layer, "pre_feedforward_layernorm")
    return _Block(
        before_attention=_norm(layer.input_layernorm),
        query=attention.q_proj,
        key=attention.k_proj,
        value=attention.v_proj,
        out=attention.o_proj,
        query_norm=_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        key_norm=_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        after_attention=_norm(layer.post_attention_layernorm) if sandwich else None,
        before_mlp=_norm(layer.pre_feedforward_layernorm if sandwich else layer.post_attention_layernorm),
        gate=mlp.gate_proj,
        up=mlp.up_proj,
        down=mlp.down_proj,
        act=act,
        after_mlp=_norm(layer.post_feedforward_layernorm) if sandwich else None,
        rotary=rotary,
    )
