"""Attention of sequences that share prompts as one compiled operation, with gradients (c/attention.c).

    out = softmax(cap(scale q k) + slope (position of k - position of q)) v,  cap(x) = softcap tanh(x / softcap)

over the keys that a token sees: its own sequence up to itself, and the prompt of that sequence; with a window, the last
`window` of them. A sink is one more score in the softmax, which has no value. It is the method of arXiv 2205.14135: nothing
of the size tokens x tokens is kept, and the backward pass computes the scores again. For tensors of which `native.ready`
says yes; there are no gradients of gradients, and none of slopes.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tropism.tensors import native

_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


@dataclass(frozen=True, slots=True)
class Units:
    """Which tokens attend to which. `unit_U5`: where a prompt P with its first answer A1 begins, its tokens, those of P
    alone, where the answers A2 … AK begin, their tokens. `first_M`: of each token the first one of P A1 or of its own
    answer."""

    unit_U5: Tensor
    first_M: Tensor


class _Given(ctypes.Structure):
    """`Attention` of attention.c."""

    _fields_ = [
        *((name, _I) for name in ("tokens", "heads", "kv_heads", "size", "v_size", "units", "window")),
        *((f"{name}_{step}", _I) for name in "qkv" for step in ("row", "head")),
        *((name, _F) for name in ("scale", "softcap")),
        *((name, _P) for name in ("q", "k", "v", "slopes", "sinks", "unit", "first", "out", "log")),
        *((name, _P) for name in ("slope", "along", "q_back", "k_back", "v_back")),
    ]


def attention(
    q_MHS: Tensor,
    k_MHS: Tensor,
    v_MHS: Tensor,
    units: Units,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    slopes_H: Tensor | None = None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """(M, heads, size of a value); keys and values may have fewer heads. 0 is no window and no cap."""
    options = units, scale, window, softcap, slopes_H
    if torch.is_grad_enabled():
        return _Attention.apply(q_MHS, k_MHS, v_MHS, sinks_H, options)  # type: ignore[no-any-return]
    return _forward(_dense(q_MHS), _dense(k_MHS), _dense(v_MHS), sinks_H, *options)[0]


def _dense(x_MHS: Tensor) -> Tensor:
    return x_MHS if x_MHS.stride(2) == 1 else x_MHS.contiguous()


def _given(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, units: Units, scale: float, window: int, softcap: float,
    slopes: Tensor | None, **more: Tensor,
) -> _Given:  # fmt: skip
    tokens, heads, size = q.shape
    given = _Given(tokens, heads, k.shape[1], size, v.shape[2], len(units.unit_U5), window)
    given.scale, given.softcap = scale, softcap
    for name, x in (("q", q), ("k", k), ("v", v)):
        setattr(given, f"{name}_row", x.stride(0))
        setattr(given, f"{name}_head", x.stride(1))
    tensors = {"q": q, "k": k, "v": v, "slopes": slopes, "sinks": sinks, "unit": units.unit_U5, "first": units.first_M}
    for name, tensor in {**tensors, **more}.items():
        setattr(given, name, tensor.data_ptr() if tensor is not None else None)
    return given


def _forward(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, *options: Any) -> tuple[Tensor, Tensor]:
    out, log = q.new_empty(*q.shape[:2], v.shape[2]), q.new_empty(q.shape[1], q.shape[0])
    native.call("attention_forward", ctypes.byref(_given(q, k, v, sinks, *options, out=out, log=log)))
    return out, log


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, options: tuple[Any, ...]) -> Tensor:
        q, k, v = _dense(q), _dense(k), _dense(v)
        out, log = _forward(q, k, v, sinks, *options)
        ctx.save_for_backward(q, k, v, sinks, out, log)
        ctx.options = options
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        q, k, v, sinks, out, log = ctx.saved_tensors
        slope, along = slope.contiguous(), torch.empty_like(log)
        back = [x.new_empty(x.shape) for x in (q, k, v)]
        made = dict(zip(("q_back", "k_back", "v_back"), back), out=out, log=log, slope=slope, along=along)
        native.call("attention_backward", ctypes.byref(_given(q, k, v, sinks, *ctx.options, **made)))
        sinks_back = None if sinks is None else -((sinks[:, None] - log).exp() * along).sum(1)
        return *back, sinks_back, None
