"""What the families are made of: normalisation, activations, rotary positions.

Rotary positions (arXiv 2104.09864) in the half-split form of transformers: with (a, b) the halves of a head's first r
numbers, (a cos - b sin, b cos + a sin). The frequencies are those of the model's own module. Left out: frequencies that
depend on the length of the text (`dynamic`, `longrope`), with which a key would depend on later tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tropism.tensors import fused, native

FIXED = {"default", "linear", "yarn", "llama3"}  # types of rotary positions whose frequencies never change
Activation = Callable[[Tensor], Tensor]
Turn = tuple[Tensor, Tensor]  # cos (M, 1, r) and sin (M, 1, r / 2)
SILU: Activation = lambda x: F.silu(x, inplace=True)  # noqa: E731
ACTIVATIONS: dict[str, Activation] = {
    "silu": SILU,
    "swish": SILU,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu_,
}


def rms(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """RMS normalisation (arXiv 1910.07467) over the last axis."""
    if native.ready(x) and native.ready(weight_D):
        return fused.rms(x, weight_D, eps)
    return F.rms_norm(x, weight_D.shape, weight_D, eps)


def rms_plus_one(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Gemma's: weights are kept minus 1, and rounding comes last."""
    if native.ready(x) and native.ready(weight_D):
        return fused.rms(x, weight_D, eps, 1.0)
    return F.rms_norm(x.float(), weight_D.shape, weight_D.float() + 1, eps).to(x.dtype)


def gated(act: Activation, gate: Tensor, up: Tensor) -> Tensor:
    """act(gate) * up, in the memory of `gate`."""
    if act is SILU and native.ready(gate):
        return fused.gated_(gate, up)
    return act(gate).mul_(up)


def side_by_side(x_MD: Tensor, *parts: nn.Linear) -> Tensor:
    """The outputs of several linear layers in one tensor (M, sum of their widths)."""
    made, end = x_MD.new_empty(len(x_MD), sum(part.out_features for part in parts)), 0
    for part in parts:
        out, end = made[:, end : end + part.out_features], end + part.out_features
        if part.bias is None:
            torch.mm(x_MD, part.weight.t(), out=out)
        else:
            torch.addmm(part.bias, x_MD, part.weight.t(), out=out)
    return made


def add_linear(x_MD: Tensor, inner: Tensor, part: nn.Linear) -> Tensor:
    """x += linear(inner), in place."""
    if part.bias is not None:
        x_MD.add_(part.bias)
    return x_MD.addmm_(inner, part.weight.t())


class Rotary:
    """The rotary positions of a module of transformers; `kind` if it has different ones for different layers."""

    def __init__(self, module: Any, kind: str | None = None) -> None:
        prefix = f"{kind}_" if kind else ""
        self.module, self.name = module, f"{prefix}inv_freq"
        self.factor = float(getattr(module, f"{prefix}attention_scaling"))
        self.type = module.rope_type[kind] if kind else module.rope_type

    def __call__(self, position_M: Tensor, dtype: torch.dtype) -> Turn:
        angle = position_M[:, None, None] * getattr(self.module, self.name)
        cos, sin = angle.cos(), angle.sin_()
        if self.factor != 1:
            cos, sin = cos.mul_(self.factor), sin.mul_(self.factor)
        return torch.cat((cos, cos), -1).to(dtype), sin.to(dtype)


def turned(x_MHS: Tensor, turn: Turn) -> Tensor:
    """Vectors of heads (M, heads, size), of which the first numbers are turned."""
    cos, sin = turn
    if native.ready(x_MHS):
        return fused.turned(x_MHS, cos, sin)
    half, r = sin.shape[-1], cos.shape[-1]
    part = x_MHS if r == x_MHS.shape[-1] else x_MHS[..., :r]
    made = part * cos
    made[..., :half].addcmul_(part[..., half:], sin, value=-1)
    made[..., half:].addcmul_(part[..., :half], sin)
    return made if part is x_MHS else torch.cat((made, x_MHS[..., r:]), -1)
