"""Parts of the layers of a model as one compiled operation each (`native.py`), with their gradients.

    rms(x)         x / sqrt(mean(x²) + eps) * (weight + plus)                          arXiv 1910.07467
    gated(g, u)    silu(g) * u                                                         arXiv 2002.05202
    turned(x)      (a cos - b sin, b cos + a sin) for the halves a, b of each head     arXiv 2104.09864

Each reads its inputs once and keeps nothing for the backward pass but them; torch's operations take five to ten passes
over memory. For tensors of which `native.ready` says yes. There are no gradients of gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tropism.tensors import native

ROWS = 64  # as in layers.c


def rms(x: Tensor, weight_D: Tensor, eps: float, plus: float = 0.0) -> Tensor:
    """Over the last axis of `x` (…, D)."""
    if torch.is_grad_enabled():
        return _Rms.apply(x, weight_D, eps, plus)  # type: ignore[no-any-return]
    return _rms(x.contiguous(), weight_D, eps, plus)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Of two tensors of one shape."""
    if torch.is_grad_enabled():
        return _Gated.apply(gate, up)  # type: ignore[no-any-return]
    gate = gate.contiguous()
    return _gated(gate, up.contiguous(), torch.empty_like(gate))


def gated_(gate: Tensor, up: Tensor) -> Tensor:
    """In the memory of `gate`, without gradients; both contiguous."""
    return _gated(gate, up, gate)


def turned(x_MHS: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Of the first R numbers of each head, for cos (…, R) and sin (…, R, or R / 2 if both halves are equal). These are of M
    rows, or of the first rows, after which they begin again; they get no gradient."""
    cos, sin = cos.contiguous(), sin.contiguous()
    if torch.is_grad_enabled():
        return _Turned.apply(x_MHS, cos, sin)  # type: ignore[no-any-return]
    return _turned(x_MHS, cos, sin, False)


def _rms(x: Tensor, weight_D: Tensor, eps: float, plus: float) -> Tensor:
    out, width = torch.empty_like(x), x.shape[-1]
    native.call("rms", x.data_ptr(), weight_D.data_ptr(), out.data_ptr(), x.numel() // width, width, eps, plus)
    return out


def _gated(gate: Tensor, up: Tensor, out: Tensor) -> Tensor:
    native.call("gated", gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel())
    return out


def _turned(x_MHS: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    x_MHS = native.heads_together(x_MHS)
    rows, heads, size = x_MHS.shape
    out, turned = x_MHS.new_empty(x_MHS.shape), cos.shape[-1]
    places = (t.data_ptr() for t in (x_MHS, cos, sin, out))
    angles = cos.numel() // turned
    native.call("turn", *places, rows, heads, size, x_MHS.stride(0), turned, angles, sin.shape[-1], back)
    return out


class _Rms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float, plus: float) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight_D)
        ctx.given = eps, plus
        return _rms(x, weight_D, eps, plus)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        x, weight_D = ctx.saved_tensors
        slope, back, width = slope.contiguous(), torch.empty_like(x), x.shape[-1]
        rows = x.numel() // width
        part = x.new_empty(-(-rows // ROWS), width)
        places = (t.data_ptr() for t in (x, weight_D, slope, back, part))
        native.call("rms_back", *places, rows, width, *ctx.given)
        return back, part.sum(0), None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return _gated(gate, up, torch.empty_like(gate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        slope, made = slope.contiguous(), (torch.empty_like(gate), torch.empty_like(up))
        places = (t.data_ptr() for t in (gate, up, slope, *made))
        native.call("gated_back", *places, gate.numel())
        return made


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MHS: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x_MHS, cos, sin, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(slope, cos, sin, True), None, None
