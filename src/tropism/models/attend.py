"""A forward pass that leaves attention to whoever keeps the keys and values.

    forward(tokens_BT, position_BT, attend) -> (B, T, width) last hidden states
    attend(layer, q, k, v) -> (B, T, heads * size)

with q (B, heads, T, size) and k, v (B, kv heads, T, size) of the T new tokens of each row, positions already applied.
`attend` stores k and v and attends each query to its row's whole history; `Forward.layers` says how in each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tropism.models.step import Step

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LayerSpec:
    """Attention of one layer: softmax(cap(q k * scale)) v, where a query sees the last `window` tokens, itself included.

    `window` None: all. `cap(x)` is softcap * tanh(x / softcap), or x if `softcap` is None."""

    heads: int
    kv_heads: int
    size: int
    scale: float
    window: int | None = None
    softcap: float | None = None


@dataclass(frozen=True)
class Forward:
    """Call it under `torch.inference_mode()` or `torch.no_grad()`: it writes to its own tensors in place. `step`, if there
    is one, does the same for one new token of each row."""

    layers: Sequence[LayerSpec]
    run: Callable[[Tensor, Tensor, Attend], Tensor]
    step: Step | None = None

    def __call__(self, tokens_BT: Tensor, position_BT: Tensor, attend: Attend) -> Tensor:
        return self.run(tokens_BT, position_BT, attend)


def attended(q: Tensor, k: Tensor, v: Tensor, spec: LayerSpec, mask: Tensor) -> Tensor:
    """(B, T, heads * size): attention of queries (B, heads, T, size) to keys and values (B, kv heads, S, size).

    `mask` (B or 1, 1, T, S) is added to the scores: 0 where a query sees a key, -inf or the lowest number elsewhere.
    """
    shared = spec.heads // spec.kv_heads
    if shared > 1 and q.shape[2] == 1:  # the queries that share keys become queries of one head
        q = q.reshape(len(q), spec.kv_heads, shared, spec.size)
    elif shared > 1:
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    if spec.softcap is None:
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=spec.scale)
    else:
        scores = (q @ k.transpose(-1, -2)).mul_(spec.scale / spec.softcap).tanh_().mul_(spec.softcap).add_(mask)
        mixed = scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
    mixed = mixed.reshape(len(q), spec.heads, -1, spec.size)
    return mixed.transpose(1, 2).reshape(len(q), mixed.shape[2], -1)
