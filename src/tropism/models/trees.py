"""Attention of a forest without a mask, for unmodified models: linear layers see each token once, and attention is one
compiled operation (`tensors/attention.py`; on a graphics processor `tensors/flex.py`), or in other precisions and without a
compiler torch's kernel on the rectangles of `tensors/blocks.py`.

There a query whose keys are in two rectangles is computed in each; with the log-sum-exp l of each part (arXiv 2205.14135)

    out = Σ exp(l_i − l) out_i,  l = log Σ exp l_i

The backward pass of the same kernel, given `out` and l of the whole, is exact for the keys of each part: it needs only
exp(score − l) and the inner product of `out` with its gradient. So nothing is gathered or repeated, and only a sliding
window that is shorter than a sequence needs a mask, of the rectangle.

Models call it through transformers' AttentionInterface, which hands over soft caps and sinks. Only the compiled operations
have these; they compute them in float32, for models in 16 bits too. Left out: families with attention of their own (Bloom,
Falcon, MPT, GPT-J, CodeGen).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from tropism.models.halves import states_of, text_config
from tropism.models.masks import FULL, SLIDING, layer_kinds, right_on_trees, takes_trees
from tropism.tensors import flex, native
from tropism.tensors.attention import attention
from tropism.tensors.batch import Batch
from tropism.tensors.blocks import Block, Blocks, blocks

NAME = "tropism_blocks"  # of the attention, in a model's config while it runs
TAKES = "_takes_blocks"  # the attribute of a model with the result of the trial
COMPILED = "_attends_compiled"  # and with whether the compiled operation was used last
FLEX = {"cuda"}  # devices whose attention is torch's `flex_attention`
HARMLESS = {"dropout", "is_causal", "position_ids", "sliding_window"}  # options that change nothing here
_NOW: ContextVar[tuple[PreTrainedModel, Blocks] | None] = ContextVar("blocks", default=None)
_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def takes_blocks(model: PreTrainedModel) -> bool:
    """Whether the model's attention can run on blocks; this is tried once for each model."""
    if TAKES not in model.__dict__:
        able = takes_trees(model) and model.device.type in {"cpu", *FLEX}
        model.__dict__[TAKES] = able and right_on_trees(model, states_on_blocks)
    return model.__dict__[TAKES]


def is_compiled(model: PreTrainedModel) -> bool:
    """Whether the model's attention can run on blocks by the compiled operation, whatever their lengths."""
    return takes_blocks(model) and model.__dict__[COMPILED]


def states_on_blocks(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(B * T, width) last hidden states of shared rows; padding is left out, its states are 0."""
    plan = blocks(batch)
    kinds = layer_kinds(model)
    windows = {FULL: 0, SLIDING: getattr(text_config(model), "sliding_window", None) or 0}
    # in place of a mask a model gets one number, the window of its layers, which it hands to `attend`
    masks = {kind: torch.full((1, 1, 1, 1), windows[kind]) for kind in kinds}
    tokens_1M = batch.tokens_BT.flatten()[None, plan.kept_M]
    with _attention_on(model, plan):
        mask = masks if len(kinds) > 1 else masks[kinds.pop()]
        states_MD = states_of(model, tokens_1M, attention_mask=mask, position_ids=plan.position_M[None])[0]
    return states_MD.new_zeros(batch.tokens_BT.numel(), states_MD.shape[1]).index_copy(0, plan.kept_M, states_MD)


@contextlib.contextmanager
def _attention_on(model: PreTrainedModel, plan: Blocks) -> Iterator[None]:
    config = text_config(model)
    before, token = config._attn_implementation, _NOW.set((model, plan))
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _NOW.reset(token)


def attention_of_now() -> contextlib.AbstractContextManager[None]:
    """A context with the attention that there is now, for what is computed again later."""
    now = _NOW.get()
    return _attention_on(*now) if now else contextlib.nullcontext()


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: (1, heads, M, size) queries, keys and values → (1, M, heads, size). `s_aux` (heads,): sinks.

    Raises NotImplementedError for a family whose attention has more to it, which shows in the trial.
    """
    if more := {name for name, x in options.items() if name not in HARMLESS and x is not None and x is not False}:
        raise NotImplementedError(f"attention with {', '.join(more)}")
    now = _NOW.get()
    assert now is not None
    (model, plan), window, given = now, int(attention_mask), query.dtype
    if softcap or s_aux is not None:
        kind = torch.promote_types(given, torch.float32)
    else:  # as for the attention of torch
        device = query.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else given
    query, key, value = (x.to(kind) for x in (query, key, value))
    on_flex = query.device.type in FLEX
    model.__dict__[COMPILED] = on_flex or all(map(native.ready, (query, key, value)))
    if model.__dict__[COMPILED]:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        sinks = None if s_aux is None else s_aux.float()
        q_MHS, k_MHS, v_MHS = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
        run = flex.attention if on_flex else attention
        out_MHS = run(q_MHS, k_MHS, v_MHS, plan.units, scale, window, softcap or 0.0, sinks_H=sinks)
        return out_MHS[None].to(given), None
    if softcap or s_aux is not None:
        raise NotImplementedError("attention with a soft cap or sinks, without a compiler or in this precision")
    return _Attention.apply(query, key, value, plan, window, scaling), None


AttentionInterface.register(NAME, attend)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: Blocks, window: int, scale: float | None
    ) -> Tensor:
        out = torch.empty_like(query.transpose(1, 2)).transpose(1, 2)
        exact = torch.promote_types(query.dtype, torch.float32)
        total = query.new_empty(1, query.shape[2], query.shape[1], 1, dtype=exact).transpose(1, 2)
        for block in plan.own:
            given = _q(query, block), _k(key, block), _k(value, block)
            mask = _mask(plan, block, window, query, True)
            part, log = _forward(*given, 0.0, mask is None, attn_mask=mask, scale=scale)
            _q(out, block).copy_(part)
            _q(total, block).copy_(log[..., None])
        for block in plan.cross:
            given = _q(query, block), _k(key, block), _k(value, block)
            mask = _mask(plan, block, window, query, False)
            part, log = _forward(*given, 0.0, False, attn_mask=mask, scale=scale)
            whole, sofar = _q(out, block), _q(total, block)
            both = torch.logaddexp(sofar, log[..., None])
            whole.mul_((sofar - both).exp_()).add_(part.mul_((log[..., None] - both).exp_()))
            sofar.copy_(both)
        ctx.save_for_backward(query, key, value, out, total)
        ctx.given = plan, window, scale
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        query, key, value, out, total = ctx.saved_tensors
        plan, window, scale = ctx.given
        slope = slope.transpose(1, 2)
        grads = [torch.empty_like(x.transpose(1, 2)).transpose(1, 2) for x in (query, key, value)]
        for parts, own in ((plan.own, True), (plan.cross, False)):
            for b in parts:
                mask = _mask(plan, b, window, query, own)
                given = _q(slope, b), _q(query, b), _k(key, b), _k(value, b), _q(out, b), _q(total, b)[..., 0]
                found = _backward(*given, 0.0, own and mask is None, attn_mask=mask, scale=scale)
                for grad, view, more in zip(grads, (_q, _k, _k), found):
                    view(grad, b).copy_(more) if own else view(grad, b).add_(more)
        return (*grads, None, None, None)


def _q(x: Tensor, block: Block) -> Tensor:
    return _view(x, block.query, block.queries, block.count, block.stride)


def _k(x: Tensor, block: Block) -> Tensor:
    return _view(x, block.key, block.keys, block.count, block.key_stride)


def _view(x: Tensor, start: int, length: int, count: int, stride: int) -> Tensor:
    """(1, heads, M, size) → (count, heads, length, size), without a copy."""
    if count == 1:
        return x[:, :, start : start + length]
    reach = start + (count - 1) * stride + length
    return x[0, :, start:reach].unfold(1, length, stride).permute(1, 0, 3, 2)


def _mask(plan: Blocks, block: Block, window: int, like: Tensor, own: bool) -> Tensor | None:
    """(count, 1, queries, keys), to be added: what is out of the window; None if nothing is."""
    if not window or plan.depth <= window or (own and block.queries <= window):
        return None
    position = plan.position_M[None, None, :, None]
    query, key = _q(position, block), _k(position, block)[..., 0][:, :, None]
    sees = query - key < window
    if own:
        sees &= query >= key
    return torch.zeros_like(sees, dtype=like.dtype).masked_fill_(~sees, torch.finfo(like.dtype).min / 2)
