"""A pool of pages of keys and values. A page has the keys and values of `PAGE` tokens of one sequence, in all layers.

    keys[layer], values[layer]   (pages, kv heads, PAGE, size)

The pool grows when no page is free, one layer at a time. When less than half of it is used, the pages are moved together,
unless it is small; when none is used, its memory is given back. On a CPU it becomes four times as large, as the system
gives memory only to pages that were written; elsewhere it grows by an eighth. All of a pool can be read as one tensor
without copying it (`_attention.py`), so pages that are free are read too: they hold finite numbers. The idea of pages is
vLLM's (arXiv 2309.06180).
"""

from __future__ import annotations

import heapq
import math
import mmap

import torch
from torch import Tensor

from tropism.tensors import native
from tropism.tensors.native import PAGE

PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
SMALL = 1 << 26  # bytes: a pool of so many is not made smaller while pages are used


class Pages:
    """`users[page]` is the number of those who hold a page, 0 for a free one. The tensors may have room for more."""

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.users: list[int] = []
        self.page_bytes = 0  # of one page in all layers
        self._free: list[int] = []
        self._room = 0

    @property
    def used(self) -> int:
        return len(self.users) - len(self._free)

    @property
    def bytes(self) -> int:
        """Of the memory that the system has given."""
        tensors = (*self.keys.values(), *self.values.values())
        return sum(t[:1].nbytes * (len(self.users) if t.device.type == "cpu" else self._room) for t in tensors)

    def take(self) -> int:
        """A page for one user: the first free one."""
        if not self._free:
            if len(self.users) == self._room:
                self._grow()
            self._free.append(len(self.users))
            self.users.append(0)
        page = heapq.heappop(self._free)
        self.users[page] = 1
        return page

    def give(self, page: int) -> None:
        """One user fewer."""
        self.users[page] -= 1
        if not self.users[page]:
            heapq.heappush(self._free, page)

    def write(self, layer: int, page_N: Tensor, at_N: Tensor, k_NHS: Tensor, v_NHS: Tensor) -> None:
        """Puts the key and value of one token each at a place of a page."""
        for kept, new in ((self.keys, k_NHS), (self.values, v_NHS)):
            if layer not in kept:
                self._add(kept, layer, new, new.shape[1], PAGE, new.shape[2])
            if native.ready(new):
                native.put(kept[layer], page_N, at_N, native.heads_together(new))
            else:
                kept[layer][page_N, :, at_N] = new

    @torch.inference_mode()
    def copy(self, pages: Tensor, source: Pages, from_pages: Tensor) -> None:
        """Copies whole pages of another pool."""
        for mine, theirs in ((self.keys, source.keys), (self.values, source.values)):
            for layer, tensor in theirs.items():
                if layer not in mine:
                    self._add(mine, layer, tensor, *tensor.shape[1:])
                mine[layer].index_copy_(0, pages, tensor.index_select(0, from_pages))

    @torch.inference_mode()
    def shrink(self) -> dict[int, int]:
        """The new place of each page that is used, if less than half of them are; {} if nothing moved."""
        if not self.used and self.users:
            self._empty()
        if self.bytes <= SMALL or self.used * 2 > len(self.users):
            return {}
        kept = [page for page, users in enumerate(self.users) if users]
        for tensors in (self.keys, self.values):
            for layer, old in tensors.items():
                tensors[layer] = old[kept]
        self.users, self._free, self._room = [self.users[page] for page in kept], [], len(kept)
        return {old: new for new, old in enumerate(kept)}

    def _empty(self) -> None:
        """Gives the memory back; on a CPU there stays room that the system has not given."""
        self.users, self._free = [], []
        for tensors in (self.keys, self.values):
            for layer, old in tensors.items():
                self._room = self._room if old.device.type == "cpu" else 0
                tensors[layer] = _zeros(old, self._room, *old.shape[1:])

    def _add(self, kept: dict[int, Tensor], layer: int, like: Tensor, *shape: int) -> None:
        kept[layer] = _zeros(like, self._room, *shape)
        self.page_bytes += math.prod(shape) * like.element_size()

    @torch.inference_mode()
    def _grow(self) -> None:
        used = self._room
        for tensors in (self.keys, self.values):
            for layer, old in tensors.items():
                self._room = used + max(4, used * 3 if old.device.type == "cpu" else used // 8)
                tensors[layer] = _zeros(old, self._room, *old.shape[1:])
                tensors[layer][:used] = old
        self._room = max(self._room, used + 4)  # before the first pass there are no tensors


def _zeros(like: Tensor, *shape: int) -> Tensor:
    """On a CPU memory that the system gives when it is written, also if `train/heap.py` keeps what is freed."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    memory = mmap.mmap(-1, max(1, math.prod(shape) * like.element_size()), **PRIVATE)
    return torch.frombuffer(memory, dtype=like.dtype, count=math.prod(shape)).view(shape)
