"""A decoding step of a Llama-like model as one compiled operation (`tensors/c/step.c`): one new token of each row through
all layers, with the keys and values in pages (`engines/_pages.py`). Several steps, with the choice of a token after each,
are one operation too (`steps.c`).

A family's file says where the weights are. Used for float32 on a CPU with AVX-512.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

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
    """What the rows see, as `engines/_reads.py:Reads` has it."""

    start: np.ndarray
    page: np.ndarray
    seen: np.ndarray
    shared: np.ndarray


class Head(NamedTuple):
    """From last hidden states to logits; `absent_V` is True for ids that no text can have."""

    weight: Tensor
    bias: Tensor | None
    absent_V: Tensor | None


class Wanted(NamedTuple):
    """Up to `most` tokens for each row, at most `limit_R`, after its `last_R` token. `position_R` is that of this token,
    `written_R` the number of tokens in the row's own pages, which have room for all. A row ends with a token of `stops`;
    `number_RN` are uniform numbers, of which a temperature of 0 reads none."""

    most: int
    last_R: np.ndarray
    position_R: np.ndarray
    written_R: np.ndarray
    limit_R: np.ndarray
    number_RN: np.ndarray
    stops: np.ndarray
    temperature: float


class Made(NamedTuple):
    """The first `count_R` of `token_RN`, and their log-probabilities."""

    token_RN: np.ndarray
    logprob_RN: np.ndarray
    count_R: np.ndarray


@dataclass(frozen=True)
class Step:
    """`turn(position_M)` gives cosines (M, 1, r) and sines (M, 1, r / 2). `windows`: 0 for layers that see everything."""

    turn: Callable[[Tensor], tuple[Tensor, Tensor]]
    embedding: Callable[[], Tensor]
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
        layers, last, embedding = self.layers(), self.last_norm(), self.embedding()
        weights = [embedding, last, *(w for layer in layers for w in layer if w is not None)]
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

    def __call__(
        self, tokens_M: Tensor, position_M: Tensor, rows: Rows, page_M: Tensor, at_M: Tensor, pools: Sequence[Pools]
    ) -> Tensor:
        """(M, width) last hidden states; the new keys and values are written to the places `at_M` of pages `page_M`."""
        x_MD, (cos, sin) = F.embedding(tokens_M, self.weights[0]), self.step.turn(position_M)
        model, sees = self._model(cos, sin, pools), self._sees(rows)
        model.page, model.at = page_M.data_ptr(), at_M.data_ptr()
        native.call("one_step", ctypes.addressof(model), ctypes.addressof(sees), x_MD.data_ptr())
        return x_MD

    def several(self, wanted: Wanted, rows: Rows, head: Head, pools: Sequence[Pools]) -> Made:
        """The next tokens of rows, each chosen after a step. The last page of a row is the one that is written last."""
        steps, count = np.arange(wanted.most)[:, None], len(wanted.last_R)
        cos, sin = self.step.turn(torch.from_numpy((steps + wanted.position_R).reshape(-1)))
        model, sees = self._model(cos, sin, pools), self._sees(rows)
        made = Made(
            np.empty((count, wanted.most), np.int64),
            np.empty((count, wanted.most), np.float32),
            np.empty(count, np.int64),
        )
        given = native.Steps(wanted.most, len(head.weight), len(wanted.stops), wanted.temperature)
        tensors = {"embedding": self.weights[0], "head": head.weight, "head_bias": head.bias, "absent": head.absent_V}
        for name, tensor in tensors.items():
            setattr(given, name, None if tensor is None else tensor.data_ptr())
        arrays = {
            "stop": wanted.stops, "last": wanted.last_R, "written": wanted.written_R, "limit": wanted.limit_R,
            "number": wanted.number_RN, "token": made.token_RN, "made": made.count_R, "logp": made.logprob_RN,
        }  # fmt: skip
        for name, array in arrays.items():
            setattr(given, name, native.address(array))
        native.call("several_steps", *map(ctypes.addressof, (model, sees, given)))
        return made

    def _model(self, cos: Tensor, sin: Tensor, pools: Sequence[Pools]) -> native.Model:
        table, width = self.table, self.weights[0].shape[1]
        table[:, len(Layer._fields) : -1] = [[0 if x is None else x.data_ptr() for x in pool] for pool in pools]
        return native.Model(
            len(table), width, self.inner, cos.shape[-1], self.step.eps, self.weights[1].data_ptr(),
            native.address(table), cos.data_ptr(), sin.data_ptr(),
        )  # fmt: skip

    def _sees(self, rows: Rows) -> native.Rows:
        step = self.step
        return native.Rows(
            rows=len(rows.shared), heads=step.heads, kv_heads=step.kv_heads, size=step.size, v_size=step.size,
            scale=step.scale, **{name: native.address(array) for name, array in rows._asdict().items()},
        )  # fmt: skip
