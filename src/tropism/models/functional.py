"""Models as plain functions of their own weights, for decoding: no modules are walked, no masks or outputs are built.

A file of `families/` has the forward pass of the models it names. It is used if all modules of the model are torch's or
transformers' own, without hooks, adapters or quantised weights, and if it gives the same states as the modules on a few
tokens; this is tried once for each model. The weights are read from the modules at each call, so an update of them needs
nothing. Other models, and those that the trial refuses, are decoded by calling their modules.
"""

from __future__ import annotations

import importlib
import pkgutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from tropism.models import families
from tropism.models.attend import Forward, LayerSpec, attended
from tropism.models.fused import is_changed
from tropism.models.halves import alike, backbone, logits, probe_tokens, states_of, text_config
from tropism.models.step import Head, Pools, Rows
from tropism.tensors import native
from tropism.tensors.native import PAGE

Scores = Callable[[Tensor], Tensor]
OWN = ("torch.nn.modules.", "transformers.")  # where the modules come from that a family's file knows


class _Known(NamedTuple):
    """What was found out about a backbone, as long as it has these modules."""

    modules: tuple[nn.Module, ...]
    children: list[nn.Module | None]
    forward: Forward | None


def functional_of(model: PreTrainedModel) -> Forward | None:
    """The forward pass of a model up to its last hidden states; None if there is none that gives the same.

    It may be asked before each pass: after the first time it only looks whether a module has been changed.
    """
    known = _FORWARDS.get(model)
    if known is None or _children(known.modules) != known.children:  # the second: an adapter came or went
        part = backbone(model)
        modules = tuple(part.modules())
        if any(map(is_changed, modules)):
            return None
        forward = _tried(model, part) if all(map(_plain, modules)) else None
        known = _FORWARDS[model] = _Known(modules, _children(modules), forward)
    return None if any(map(is_changed, known.modules)) else known.forward


def head_of(model: PreTrainedModel) -> Scores:
    """The function `halves.logits` of a model, without its modules if `linear_head` knows its head."""
    found = linear_head(model)
    return _linear(model, *found) if found else lambda states_MD: logits(model, states_MD)


def compiled_head(model: PreTrainedModel) -> Head | None:
    """What `Bound.several` needs of the head; None if it does more than one linear layer or is not for the operation."""
    head, cap = linear_head(model) or (None, None)
    if head is None or cap is not None or not _is_compiled(head):
        return None
    return Head(head.weight.detach(), None if head.bias is None else head.bias.detach(), model.__dict__.get("absent_V"))


def _is_compiled(head: nn.Linear) -> bool:
    return native.ready(head.weight) and head.weight.is_contiguous() and native.has("linear_rows")


def linear_head(model: PreTrainedModel) -> tuple[nn.Linear, float | None] | None:
    """The head and its cap (None: it has none, as in most models), if all it does is one linear layer and this cap; each
    head is tried once."""
    head: Any = model.get_output_embeddings()
    if type(head) is not nn.Linear or not _plain(head) or is_changed(head):
        return None
    cap = getattr(text_config(model), "final_logit_softcapping", None)
    if model not in _LINEAR or _LINEAR[model][0] != id(head):
        _LINEAR[model] = (id(head), _same_logits(_linear(model, head, cap), model, head))
    return (head, cap) if _LINEAR[model][1] else None


_FORWARDS: weakref.WeakKeyDictionary[PreTrainedModel, _Known] = weakref.WeakKeyDictionary()
_LINEAR: weakref.WeakKeyDictionary[PreTrainedModel, tuple[int, bool]] = weakref.WeakKeyDictionary()


def _children(modules: tuple[nn.Module, ...]) -> list[nn.Module | None]:
    return [child for module in modules for child in module._modules.values()]


def _plain(module: nn.Module) -> bool:
    """Whether a family's file knows the class of a module, and its weights are plain numbers."""
    weights = module._parameters.values()
    known = type(module).__module__.startswith(OWN)
    return known and all(w is None or (type(w) is nn.Parameter and w.is_floating_point()) for w in weights)


def _families() -> dict[str, Callable[[Any], Forward | None]]:
    """The forward passes by the name of the model's class."""
    names = [info.name for info in pkgutil.iter_modules(families.__path__) if not info.name.startswith("_")]
    files: list[Any] = [importlib.import_module(f"{families.__name__}.{name}") for name in names]
    return {name: file.forward for file in files for name in file.NAMES}


def _tried(model: PreTrainedModel, part: Any) -> Forward | None:
    make = _families().get(type(part).__name__)
    try:
        forward = make(part) if make else None
        if forward is None or not _agrees(model, forward):
            return None
        return replace(forward, step=forward.step if _steps_agree(model, forward) else None)
    except (AttributeError, KeyError, TypeError, RuntimeError):  # another release of transformers may have other names
        return None


@torch.no_grad()
def _agrees(model: PreTrainedModel, forward: Forward) -> bool:
    """Whether two rows, begun with five tokens and continued one by one, get the states of a plain call."""
    tokens_BT = probe_tokens(model, 16).view(2, 8)
    position_BT = torch.arange(8, device=tokens_BT.device).expand(2, 8)
    history, made = History(forward.layers), []
    for t, end in ((0, 5), (5, 6), (6, 7), (7, 8)):
        made.append(forward(tokens_BT[:, t:end], position_BT[:, t:end], history))
    return alike(torch.cat(made, 1), states_of(model, tokens_BT))


@torch.no_grad()
def _steps_agree(model: PreTrainedModel, forward: Forward) -> bool:
    """Whether the step after five tokens of two rows gives the same states, where each row has a page."""
    step = forward.step.bound() if forward.step else None
    if step is None:
        return False
    tokens_BT = probe_tokens(model, 12).view(2, 6)
    position_BT = torch.arange(6, device=tokens_BT.device).expand(2, 6)
    history = History(forward.layers)
    forward(tokens_BT[:, :5], position_BT[:, :5], history)
    pages = [[F.pad(x, (0, 0, 0, PAGE - 5)).contiguous() for x in history.kept[i]] for i in range(len(forward.layers))]
    number, at = np.arange(2), torch.tensor([5, 5])
    rows = Rows(np.arange(3), number, np.full(2, 6), np.zeros(2, np.int64))
    pools = [Pools(keys, values, None, None) for keys, values in pages]
    found = step(tokens_BT[:, 5], position_BT[:, 5], rows, torch.from_numpy(number), at, pools)
    return alike(found[:, None], states_of(model, tokens_BT)[:, 5:])


def _linear(model: PreTrainedModel, head: nn.Linear, cap: float | None) -> Scores:
    absent_V = model.__dict__.get("absent_V")
    linear = native.linear if _is_compiled(head) else F.linear

    def run(states_MD: Tensor) -> Tensor:
        scores_MV = linear(states_MD.to(head.weight.dtype), head.weight, head.bias)
        scores_MV = (scores_MV if cap is None else (scores_MV / cap).tanh_().mul_(cap)).float()
        return scores_MV if absent_V is None else scores_MV.masked_fill(absent_V, float("-inf"))

    return run


@torch.no_grad()
def _same_logits(run: Scores, model: PreTrainedModel, head: nn.Linear) -> bool:
    """Also for large logits, as a cap changes small ones little."""
    states_MD = torch.sin(torch.arange(4.0 * head.in_features, device=head.weight.device)).view(4, -1)
    states_MD = states_MD * torch.tensor([1.0, 10.0, 100.0, 1000.0], device=head.weight.device)[:, None]
    try:
        found, expected = run(states_MD), logits(model, states_MD)
    except Exception:  # a family's code may raise any error when it is used in an unexpected way
        return False
    real = torch.isfinite(expected)
    return all(alike(a[r], b[r]) for a, b, r in zip(found, expected, real)) and bool((found.isfinite() == real).all())


class History:
    """An `attend` that keeps the keys and values of rows of one length."""

    def __init__(self, layers: Any) -> None:
        self.layers: list[LayerSpec] = list(layers)
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        spec = self.layers[layer]
        if layer in self.kept:
            k, v = (torch.cat(pair, 2) for pair in zip(self.kept[layer], (k, v)))
        self.kept[layer] = (k, v)
        key = torch.arange(k.shape[2], device=q.device)
        query = key[-q.shape[2] :, None]
        sees = (key <= query) & (key > query - (spec.window or len(key)))
        mask = torch.zeros_like(sees, dtype=q.dtype).masked_fill_(~sees, float("-inf"))
        return attended(q, k, v, spec, mask[None, None])
