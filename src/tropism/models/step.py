"""A decoding step of a Llama-like model as one compiled operation (`tensors/c/step.c`): one new token of each row through
all layers, with the keys and values in pages (`engines/_pages.py`).

A family's file says where the weights are. Used for float32 on a CPU with AVX-512.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from tropism.tensors import native


class Layer(NamedTuple):
    """The weights of a layer, in the order of `Layer` in step.c; norms of queries and keys and biases may be missing."""

    norm: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    query_bias: Tensor | None
    key_bias: Tensor | None
    value_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    inner_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    gate_bias: Tensor | None
    up_bias: Tensor | None
    down_bias: Tensor | None


class Pools(NamedTuple):
    """Of one layer: pages (pages, kv heads, PAGE, size) that a row owns, and pages that rows share, if there are any."""

    keys: Tensor
    values: Tensor
    shared_keys: Tensor | None
    shared_values: Tensor | None


class Rows(NamedTuple):
    """What the rows see, as `engines/_reads.py:Reads` has it, and the place of each new token in the pages of its row."""

    start: np.ndarray
    page: np.ndarray
    seen: np.ndarray
    shared: np.ndarray
    new_page_M: Tensor
    new_at_M: Tensor


@dataclass(frozen=True)
class Step:
    """`begin(tokens_M, position_M)` gives the embedded tokens (M, width), cosines (M, 1, r) and sines (M, 1, r / 2).
    `windows`: 0 for layers that see everything."""

    begin: Callable[[Tensor, Tensor], tuple[Tensor, tuple[Tensor, Tensor]]]
    layers: Callable[[], list[Layer]]
    last_norm: Callable[[], Tensor]
    heads: int
    kv_heads: int
    size: int
    scale: float
    eps: float
    windows: Sequence[int]

    def bound(self) -> Bound | None:
        """The step with the tensors that the weights are in now, for any number of calls: updates in place count. None if
        there is something about them that the operation does not know."""
        layers, last = self.layers(), self.last_norm()
        weights = [last, *(w for layer in layers for w in layer if w is not None)]
        if not all(native.ready(w) and w.is_contiguous() for w in weights):
            return None
        table = np.zeros((len(layers), len(Layer._fields) + len(Pools._fields) + 1), dtype=np.int64)
        table[:, : len(Layer._fields)] = [[0 if w is None else w.data_ptr() for w in layer] for layer in layers]
        table[:, -1] = self.windows
        return Bound(self, [w.detach() for w in weights], table, len(layers[0].gate))


@dataclass(frozen=True)
class Bound:
    """A step with its weights, which `weights` keeps from being freed; `table` has a `Layer` of step.c in each row."""

    step: Step
    weights: Sequence[Tensor]
    table: np.ndarray
    inner: int

    def __call__(self, tokens_M: Tensor, position_M: Tensor, rows: Rows, pools: Sequence[Pools]) -> Tensor:
        """(M, width) last hidden states; the new keys and values are written to pages."""
        step, table = self.step, self.table
        table[:, len(Layer._fields) : -1] = [[0 if x is None else x.data_ptr() for x in pool] for pool in pools]
        x_MD, (cos, sin) = step.begin(tokens_M, position_M)
        model = native.Model(
            len(table), x_MD.shape[1], self.inner, cos.shape[-1], step.eps, self.weights[0].data_ptr(),
            native.address(table), cos.data_ptr(), sin.data_ptr(), rows.new_page_M.data_ptr(), rows.new_at_M.data_ptr(),
        )  # fmt: skip
        sees = native.Rows(
            rows=len(x_MD), heads=step.heads, kv_heads=step.kv_heads, size=step.size, v_size=step.size, scale=step.scale,
            **{name: native.address(getattr(rows, name)) for name in ("start", "page", "seen", "shared")},
        )  # fmt: skip
        native.call("step", ctypes.addressof(model), ctypes.addressof(sees), x_MD.data_ptr())
        return x_MD
