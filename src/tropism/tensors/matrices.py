"""Products of large matrices, and gated MLPs made of them as one compiled operation (c/mlp.c), with gradients.

    mlp(x)        (silu(x Gᵀ) * (x Uᵀ)) Dᵀ                                             arXiv 2002.05202
    linears(x)    x Aᵀ, x Bᵀ …, whose gradients of x are added up where they are made

For many tokens at a time, on processors with AVX-512. A few rows go through all three layers while they are in the cache;
x, x Gᵀ and x Uᵀ are kept for the backward pass, and without gradients nothing of the inner width is in memory. A row's
result depends neither on the other rows nor on the number of threads. For tensors of which `usable` says yes; there are no
gradients of gradients.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tropism.tensors import native

LEAST = 512  # rows: with fewer, laying out the weights costs more than is gained
LARGEST = 1 << 23  # numbers of a weight, as it is laid out again, in other memory, by each call
_NAMES = (
    *("x", "gate", "up", "down"),
    *("gated", "upped", "out", "slope", "mixed", "gate_back", "up_back", "x_back"),
)


class _Mlp(ctypes.Structure):
    """`Mlp` of mlp.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "width", "inner")),
        *((name, ctypes.c_void_p) for name in _NAMES),
    ]


def usable(x: Tensor, *weights: Tensor) -> bool:
    """Whether `x` (…, D) can go through layers with these weights here."""
    if not native.has("multiply") or torch.is_autocast_enabled("cpu") or x.numel() < LEAST * x.shape[-1]:
        return False
    fits = all(0 < w.numel() <= LARGEST and w.is_contiguous() for w in weights)
    return fits and all(map(native.ready, (x, *weights)))


def mlp(x: Tensor, gate_ID: Tensor, up_ID: Tensor, down_DI: Tensor) -> Tensor:
    """(…, D) of x (…, D)."""
    if torch.is_grad_enabled():
        return _Trained.apply(x, gate_ID, up_ID, down_DI)  # type: ignore[no-any-return]
    x = x.contiguous()
    out = torch.empty_like(x)
    _run("mlp_forward", x, gate_ID, up_ID, down_DI, out=out)
    return out


def linears(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """x (…, D) through layers without biases, with weights (N, D) of any N: (…, N) each."""
    if torch.is_grad_enabled():
        return _Linears.apply(x, *weights)  # type: ignore[no-any-return]
    return _linears(x, *weights)


def multiply(a_MK: Tensor, b_KN: Tensor, out_MN: Tensor, add: bool = False) -> Tensor:
    """out = a b, or out += a b. In each of them the numbers of a row are next to each other, or in `a` and `b` those of a
    column."""
    a_MK, b_KN = (x if 1 in x.stride() else x.contiguous() for x in (a_MK, b_KN))
    given = [part for x in (a_MK, b_KN) for part in (x.data_ptr(), *x.stride())]
    native.call("multiply", *given, out_MN.data_ptr(), out_MN.stride(0), *out_MN.shape, a_MK.shape[1], add)
    return out_MN


def _linears(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    x_MD = _flat(x)
    made = (multiply(x_MD, weight.t(), x.new_empty(len(x_MD), len(weight))) for weight in weights)
    return tuple(out.view(*x.shape[:-1], -1) for out in made)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _run(name: str, x: Tensor, gate_ID: Tensor, up_ID: Tensor, down_DI: Tensor, **more: Tensor) -> None:
    inner, width = gate_ID.shape
    given = _Mlp(x.numel() // width, width, inner)
    for part, tensor in {"x": x, "gate": gate_ID, "up": up_ID, "down": down_DI, **more}.items():
        setattr(given, part, tensor.data_ptr())
    native.call(name, ctypes.byref(given))


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        return _linears(x, *weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        flat, x_asked, asked = [*map(_flat, slopes)], ctx.needs_input_grad[0], ctx.needs_input_grad[1:]
        x_back = x.new_empty(x.shape) if x_asked else None
        for i, (slope, weight) in enumerate(zip(flat, weights)):
            if x_back is not None:
                multiply(slope, weight, _flat(x_back), add=i > 0)
        pairs = zip(flat, weights, asked)
        return x_back, *(multiply(g.t(), _flat(x), torch.empty_like(w)) if a else None for g, w, a in pairs)


class _Trained(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_ID: Tensor, up_ID: Tensor, down_DI: Tensor) -> Tensor:
        x = x.contiguous()
        out, gated, upped = torch.empty_like(x), *(x.new_empty(*x.shape[:-1], len(gate_ID)) for _ in range(2))
        _run("mlp_forward", x, gate_ID, up_ID, down_DI, out=out, gated=gated, upped=upped)
        ctx.save_for_backward(x, gate_ID, up_ID, down_DI, gated, upped)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_ID, up_ID, down_DI, gated, upped = ctx.saved_tensors
        slope, x_back = slope.contiguous(), torch.empty_like(x)
        made = {name: torch.empty_like(gated) for name in ("mixed", "gate_back", "up_back")}
        _run("mlp_backward", x, gate_ID, up_ID, down_DI, gated=gated, upped=upped, slope=slope, x_back=x_back, **made)
        pairs = (made["gate_back"], x, gate_ID), (made["up_back"], x, up_ID), (slope, made["mixed"], down_DI)
        weights = (
            multiply(_flat(left).t(), _flat(right), torch.empty_like(weight)) if asked else None
            for (left, right, weight), asked in zip(pairs, ctx.needs_input_grad[1:])
        )
        return x_back, *weights
