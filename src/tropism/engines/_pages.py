"""A pool of pages of keys and values. A page has the keys and values of `PAGE` tokens of one sequence, in all layers.

    keys[layer], values[layer]   (pages, kv heads, PAGE, size)

The pool grows by an eighth when no page is free, one layer at a time, so that little is held twice; when less than half of
it is used, the pages are moved together. All of a pool can be read as one tensor without copying it (`_attention.py`), so
pages that are free are read too: they hold finite numbers. The idea of pages is vLLM's (arXiv 2309.06180).
"""

from __future__ import annotations

import heapq

import torch
from torch import Tensor

PAGE = 16  # tokens; smaller products of matrices take as long, larger pages waste more of their last


class Pages:
    """`users[page]` is the number of those who hold a page, 0 for a free one."""

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.users: list[int] = []
        self._free: list[int] = []

    @property
    def used(self) -> int:
        return len(self.users) - len(self._free)

    @property
    def bytes(self) -> int:
        """Of all pages, also the free ones."""
        return sum(t.nbytes for t in (*self.keys.values(), *self.values.values()))

    def take(self) -> int:
        """A page for one user: the first free one."""
        if not self._free:
            self._resize(len(self.users) + max(4, len(self.users) // 8))
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
        if layer not in self.keys:
            for kept, new in ((self.keys, k_NHS), (self.values, v_NHS)):
                kept[layer] = new.new_zeros(len(self.users), new.shape[1], PAGE, new.shape[2])
        self.keys[layer][page_N, :, at_N] = k_NHS
        self.values[layer][page_N, :, at_N] = v_NHS

    @torch.inference_mode()
    def copy(self, pages: Tensor, source: Pages, from_pages: Tensor) -> None:
        """Copies whole pages of another pool."""
        for mine, theirs in ((self.keys, source.keys), (self.values, source.values)):
            for layer, tensor in theirs.items():
                if layer not in mine:
                    mine[layer] = tensor.new_zeros(len(self.users), *tensor.shape[1:])
                mine[layer].index_copy_(0, pages, tensor.index_select(0, from_pages))

    @torch.inference_mode()
    def shrink(self) -> dict[int, int]:
        """The new place of each page that is used, if less than half of them are; {} if nothing moved."""
        if len(self.users) < 16 or self.used * 2 > len(self.users):
            return {}
        kept = [page for page, users in enumerate(self.users) if users]
        for tensors in (self.keys, self.values):
            for layer, old in tensors.items():
                tensors[layer] = old[kept]
        self.users, self._free = [self.users[page] for page in kept], []
        return {old: new for new, old in enumerate(kept)}

    @torch.inference_mode()
    def _resize(self, size: int) -> None:
        more = size - len(self.users)
        for tensors in (self.keys, self.values):
            for layer, old in tensors.items():
                tensors[layer] = torch.cat([old, old.new_zeros(more, *old.shape[1:])])
        self._free += range(len(self.users), size)
        self.users += [0] * more
