"""Attention of sequences that share prompts by torch's `flex_attention` (arXiv 2412.05496), for graphics processors: the
same function as `tensors/attention.py`, with gradients, compiled by torch when it is first used.

Which keys a token sees is two ranges: its own sequence up to itself, and the prompt of that sequence. So tiles of TILE
queries and TILE keys that have no pair are left out, and tiles of which every pair counts need no mask. Nothing of the size
tokens x tokens is kept. On a CPU torch computes this without a kernel, which is of use for tests only.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention
from torch.utils.weak import WeakIdKeyDictionary

from tropism.tensors.attention import Units

TILE = 128  # tokens; what the kernels of torch expect


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
    sees, position_M = _plan(units, q_MHS.device, window)
    exact = torch.promote_types(q_MHS.dtype, torch.float32)
    change = _change(scale, softcap, exact, slopes_H, position_M)
    q, k, v = (x.transpose(0, 1)[None] for x in (q_MHS, k_MHS, v_MHS))
    run, shared = _kernel(q.device.type), k.shape[1] < q.shape[1]
    if sinks_H is None:
        return run(q, k, v, change, sees, 1.0, enable_gqa=shared)[0].transpose(0, 1)
    out, aux = run(q, k, v, change, sees, 1.0, enable_gqa=shared, return_aux=AuxRequest(lse=True))
    part = torch.sigmoid(aux.lse - sinks_H[:, None])  # of the softmax, whose sum has one more score
    return (out * part[..., None].to(out.dtype))[0].transpose(0, 1)


def _change(scale: float, softcap: float, kind: torch.dtype, slopes_H: Tensor | None, position_M: Tensor) -> Any:
    """What becomes of a product of a query and a key. Numbers are tensors, as torch compiles anew for others, or fails."""
    factor, cap = torch.tensor([scale, softcap], dtype=kind, device=position_M.device)

    def scaled(score: Tensor, _: Tensor, __: Tensor, ___: Tensor, ____: Tensor) -> Tensor:
        return score * factor

    def capped(score: Tensor, _: Tensor, __: Tensor, ___: Tensor, ____: Tensor) -> Tensor:
        return cap * torch.tanh(score * factor / cap)

    plain = capped if softcap else scaled
    if slopes_H is None:
        return plain

    def sloped(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return plain(score, row, head, query, key) + slopes_H[head] * (position_M[key] - position_M[query])

    return sloped


@functools.cache
def _kernel(device: str) -> Any:
    return flex_attention if device == "cpu" else torch.compile(flex_attention)


def _plan(units: Units, device: torch.device, window: int) -> tuple[BlockMask, Tensor]:
    """Which keys each token sees, and (M,) positions; made once for a batch and window."""
    if units.first_M not in _MADE:
        _MADE[units.first_M] = {}
    made = _MADE[units.first_M]
    if (device, window) not in made:
        made[device, window] = _made(units, device, window)
    return made[device, window]


def _made(units: Units, device: torch.device, window: int) -> tuple[BlockMask, Tensor]:
    token_M, first_M = torch.arange(len(units.first_M)), units.first_M
    begin_M, end_M = first_M.clone(), first_M.clone()  # of the prompt, if that is not in the token's own sequence
    for start, _, prompt, rest, size in units.unit_U5.tolist():
        begin_M[rest : rest + size], end_M[rest : rest + size] = start, start + prompt
    position_M = token_M - first_M + end_M - begin_M
    whole = not window or int(position_M.max()) < window
    kinds = _tiles(token_M, (first_M, token_M + 1), (begin_M, end_M), whole=whole)
    first, begin, end, position = (x.to(device, copy=True) for x in (first_M, begin_M, end_M, position_M))
    reach = torch.tensor(window, device=device)

    def sees(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (first[query] <= key) & (key <= query)
        return own | ((begin[query] <= key) & (key < end[query]))

    def sees_near(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees(row, head, query, key) & (position[query] - position[key] < reach)

    listed, size = [x.to(device) for kind in kinds for x in _listed(kind)], len(token_M)
    mask_mod = sees if whole else sees_near
    return BlockMask.from_kv_blocks(*listed, BLOCK_SIZE=TILE, mask_mod=mask_mod, seq_lengths=(size, size)), position


def _tiles(token_M: Tensor, *ranges: tuple[Tensor, Tensor], whole: bool) -> tuple[Tensor, Tensor]:
    """(tiles, tiles) of queries and keys: which have some pairs but not all, and which have all; none has all unless
    `whole`. A token sees the keys of each range [start, end)."""
    row_M, count = token_M // TILE, -(-len(token_M) // TILE)
    some, full = torch.zeros(2, count, count + 1, dtype=torch.long)
    for start_M, end_M in ranges:
        real_M = (start_M < end_M).long()
        for change, left_M, right_M in (
            (some, start_M // TILE, -(-end_M // TILE)),
            (full, -(-start_M // TILE), end_M // TILE),
        ):
            length_M = (right_M - left_M).clamp(min=0).sign() * real_M
            change.index_put_((row_M, left_M), length_M, accumulate=True)
            change.index_put_((row_M, right_M), -length_M, accumulate=True)
    has_RC = some.cumsum(1)[:, :-1] > 0
    full_RC = (full.cumsum(1)[:, :-1] == torch.bincount(row_M)[:, None]) & whole
    return has_RC & ~full_RC, full_RC


def _listed(has_RC: Tensor) -> tuple[Tensor, Tensor]:
    """As BlockMask wants it: the number of tiles in each row, and their columns first."""
    order_RC = has_RC.int().argsort(dim=1, descending=True, stable=True)
    return has_RC.sum(1, dtype=torch.int32)[None, None], order_RC.int()[None, None].contiguous()


_MADE: WeakIdKeyDictionary = WeakIdKeyDictionary()
