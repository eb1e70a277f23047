"""Attention of a pass to pages (`_plan.py`).

A row with one new token: on a CPU one compiled operation (`tensors/native.py`). Where there is none: the scores of all
pages by a batch of matrix products, each page with all its users, so shared pages are read once; a softmax over the
table of scores; a second batch of products, added up by row. Grouped queries are queries of one head, so keys are not
repeated. Chunks use `scaled_dot_product_attention`: their own keys, behind
gathered ones.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tropism.engines._pages import PAGE, Pages
from tropism.engines._plan import Chunk, Plan
from tropism.models.attend import LayerSpec, attended
from tropism.tensors import native


def attend(
    plan: Plan,
    own: Pages,
    shared: Pages,
    layer: int,
    spec: LayerSpec,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None = None,
) -> Tensor:
    """(N, heads, size) for queries (N, heads, size) and keys and values (N, kv heads, size) of the new tokens. `sinks`
    (heads,) are scores that take part in the softmax and have no value."""
    own.write(layer, plan.page, plan.at, k, v)
    found = []
    if plan.rows:
        rows = _compiled if all(map(native.ready, (q, k, v))) else _by_products
        found.append(rows(plan, own, shared, layer, spec, q[: plan.rows], v, sinks))
    for chunk in plan.chunks:
        end = chunk.first + chunk.count * chunk.length
        mine = [_heads(t[chunk.first : end], chunk) for t in (q, k, v)]
        if chunk.shared is not None and chunk.own is not None:
            places = (chunk.shared, chunk.own)
            mine[1] = _gathered((shared.keys, own.keys), places, layer)
            mine[2] = _gathered((shared.values, own.values), places, layer)
        found.append(_chunk(chunk, spec, sinks, *mine))
    return found[0] if len(found) == 1 else torch.cat(found)


def _compiled(
    plan: Plan, own: Pages, shared: Pages, layer: int, spec: LayerSpec, q: Tensor, v: Tensor, sinks: Tensor | None
) -> Tensor:
    """(rows, heads, size) for the rows with one new token."""
    q, reads, nothing = native.heads_together(q), plan.reads, q.new_empty(0)
    pools = [t.get(layer, nothing) for t in (own.keys, own.values, shared.keys, shared.values)]
    sinks = None if sinks is None else sinks.to(q.dtype).contiguous()
    places = [t.data_ptr() for t in pools]
    lists = [native.address(array) for array in (reads.start, reads.page, reads.seen, reads.shared)]
    rows = native.Rows(
        plan.rows, spec.heads, spec.kv_heads, spec.size, v.shape[-1], q.stride(0), spec.window or 0, spec.scale,
        spec.softcap or 0, *places, None if sinks is None else sinks.data_ptr(), *lists,
    )  # fmt: skip
    return native.attend(rows, q, v.shape[-1])


def _by_products(
    plan: Plan, own: Pages, shared: Pages, layer: int, spec: LayerSpec, q: Tensor, v: Tensor, sinks: Tensor | None
) -> Tensor:
    """The same with torch's operations, on any device and in any precision."""
    made = plan.table(own, shared)
    heads, groups = spec.kv_heads, spec.heads // spec.kv_heads
    exact = torch.float32 if q.element_size() < 4 else q.dtype
    table = q.new_zeros((made.rows + 1) * made.width, spec.heads, PAGE, dtype=exact)
    for part in made.parts:
        keys = part.of(part.pool.keys, layer).flatten(0, 1)
        queries = _by_head(q.index_select(0, part.query), part.users, heads, groups)
        scores = torch.bmm(queries, keys.transpose(1, 2))
        table.index_copy_(0, part.score, _by_user(scores, part.users, heads, groups).to(exact))
    table = table.view(made.rows + 1, made.width, spec.heads, PAGE)
    if spec.softcap is None:
        table = torch.add(made.mask(spec.window, exact), table, alpha=spec.scale)
    else:
        table = table.mul_(spec.scale / spec.softcap).tanh_().mul_(spec.softcap).add_(made.mask(spec.window, exact))
    top = table.amax((1, 3), keepdim=True)
    if sinks is not None:
        top = torch.maximum(top, sinks.to(exact)[:, None])
    table = table.sub_(top).exp_()
    total = table.sum((1, 3))
    if sinks is not None:
        total += (sinks.to(exact)[:, None] - top).exp()[:, 0, :, 0]
    flat = table.flatten(0, 1)
    out = q.new_zeros(made.rows + 1, spec.heads, v.shape[-1], dtype=exact)
    for part in made.parts:
        values = part.of(part.pool.values, layer).flatten(0, 1)
        weights = _by_head(flat.index_select(0, part.score).to(v.dtype), part.users, heads, groups)
        mixed = _by_user(torch.bmm(weights, values), part.users, heads, groups)
        out.index_add_(0, part.out, mixed.to(exact))
    return (out[:-1] / total[:-1, :, None]).to(q.dtype)


def _by_head(x_NHS: Tensor, users: int, heads: int, groups: int) -> Tensor:
    """(pages * users, heads * groups, S) to (pages * heads, users * groups, S)."""
    if users == 1:
        return x_NHS.reshape(-1, groups, x_NHS.shape[-1])
    x = x_NHS.view(-1, users, heads, groups, x_NHS.shape[-1]).transpose(1, 2)
    return x.reshape(-1, users * groups, x_NHS.shape[-1])


def _by_user(x: Tensor, users: int, heads: int, groups: int) -> Tensor:
    """The reverse of `_by_head`."""
    if users > 1:
        x = x.view(-1, heads, users, groups, x.shape[-1]).transpose(1, 2)
    return x.reshape(-1, heads * groups, x.shape[-1])


def _heads(x_NHS: Tensor, chunk: Chunk) -> Tensor:
    return x_NHS.reshape(chunk.count, chunk.length, *x_NHS.shape[1:]).transpose(1, 2)


def _gathered(pools: tuple[dict[int, Tensor], dict[int, Tensor]], places: tuple[Tensor, Tensor], layer: int) -> Tensor:
    """(1, heads, tokens, size) of the keys or values at some places of the pools."""
    found = [p[layer].transpose(1, 2)[at // PAGE, at % PAGE] for p, at in zip(pools, places) if len(at)]
    return torch.cat(found).transpose(0, 1)[None]


def _chunk(chunk: Chunk, spec: LayerSpec, sinks: Tensor | None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(count * length, heads, size)."""
    plain = spec.softcap is None and sinks is None
    if not chunk.held and plain and (spec.window is None or chunk.length <= spec.window):
        shared = spec.heads > spec.kv_heads
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True, scale=spec.scale, enable_gqa=shared)
        return mixed.transpose(1, 2).flatten(0, 1)
    at, keys = (torch.arange(n, device=q.device) for n in (chunk.length, chunk.held + chunk.length))
    behind = chunk.held + at[:, None] - keys
    sees = behind >= 0 if spec.window is None else (behind >= 0) & (behind < spec.window)
    mask = torch.zeros((), dtype=q.dtype, device=q.device).where(sees, float("-inf"))
    if sinks is None:
        return attended(q, k, v, spec, mask[None, None]).view(-1, spec.heads, v.shape[-1])
    k, v = (x.repeat_interleave(spec.heads // spec.kv_heads, 1) for x in (k, v))
    scores = torch.cat([(q @ k.transpose(2, 3)) * spec.scale + mask, sinks[:, None, None].expand(*q.shape[:3], 1)], 3)
    weights = scores.softmax(-1, dtype=torch.float32)[..., :-1].to(v.dtype)
    return (weights @ v).transpose(1, 2).flatten(0, 1)
