"""How a training stage keeps its weights in memory: adapter or all weights, gradient checkpointing, precision.

A stage inherits `Weights`, so these are keys of its own table: `adapter = { r = 8, alpha = 16 }`.

Trained weights are always float32, because small updates would be lost to rounding. With `dtype = "bfloat16"` a frozen
base is kept in bfloat16, and a model without an adapter computes in bfloat16 from float32 weights (autocast).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from tropism.errors import TropismError
from tropism.models.adapters import Adapter, attach, base_of, is_adapter, scalar_on, start_from, twin
from tropism.models.architecture import device
from tropism.models.folder import check_taken, frozen_base, frozen_lm, load_lm, load_scalar
from tropism.models.halves import backbone
from tropism.models.trees import attention_of_now
from tropism.tensors.batch import Layout


@dataclass(frozen=True, kw_only=True)
class Weights:
    """`adapter` trains low-rank matrices on a frozen base instead of the weights themselves. `checkpointing` computes
    each layer again in the backward pass instead of keeping its activations. `save_dtype` is the dtype of the saved
    weights (a later stage trains in float32 again). `layout` of the batches: the cheaper one for each batch, always
    completions that share a row ("shared"), or always one row for each completion ("padded")."""

    adapter: Adapter = Adapter()
    checkpointing: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    layout: Layout = "auto"

    def train_lm(self, path: str, seed: int, scorer: bool = False) -> PreTrainedModel:
        """The causal LM of a folder, for training; with `scorer` also one that was trained to score. A new adapter is drawn
        from `seed`; the adapter of a folder is trained on."""
        if not self.adapter.r:
            return self.ready(load_lm(path, scorer=scorer))
        check_taken(path, scorer=scorer)
        return self._adapted(twin(frozen_base(base_of(path), self._frozen_dtype())), path, seed)

    def train_scalar(self, path: str, seed: int) -> PreTrainedModel:
        """The same for a model that gives one number for each token: a reward model or critic."""
        if not self.adapter.r:
            return self.ready(load_scalar(path))
        return self._adapted(scalar_on(frozen_base(base_of(path), self._frozen_dtype())), path, seed)

    def freeze_lm(self, path: str) -> PreTrainedModel:
        """The causal LM of a folder as a reference: equal to the trained model at its start, and sharing its base."""
        if self.adapter.r:
            return frozen_lm(path, self._frozen_dtype())
        return self.ready(frozen_lm(path))

    def ready(self, model: PreTrainedModel) -> PreTrainedModel:
        """Sets a model in memory to compute as `checkpointing` and `dtype` say."""
        if self.checkpointing:
            recompute(model)
        if self._frozen_dtype() == torch.bfloat16 and not self.adapter.r:
            part = backbone(model)
            part.forward = functools.partial(_in_bfloat16, part.forward)
        return model

    def _adapted(self, model: PreTrainedModel, path: str, seed: int) -> PreTrainedModel:
        attach(model, self.adapter, seed)
        if is_adapter(path):
            start_from(model, path)
        return self.ready(model)

    def _frozen_dtype(self) -> torch.dtype:
        if self.dtype == "bfloat16" and not has_bfloat16(device()):
            raise TropismError(f'dtype = "bfloat16" would make this {device().type} slower, not faster: use "float32"')
        return getattr(torch, self.dtype)


def has_bfloat16(place: torch.device) -> bool:
    """Whether the hardware itself multiplies matrices in bfloat16, without emulation."""
    if place.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def recompute(model: PreTrainedModel) -> None:
    """Gradient checkpointing (arXiv 1604.06174): a layer keeps only its input and computes the rest again when needed.

    `gradient_checkpointing_enable` is not used: it has no effect in eval mode, where models stay, and in train mode it
    drops the engine's cache.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise TropismError(
            f"{type(model).__name__} has no layers that can be computed again: set checkpointing = false"
        )
    for layer in layers:
        layer.forward = functools.partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    same: Any = {"context_fn": lambda: (contextlib.nullcontext(), attention_of_now())}
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **same, **kwargs)


def _in_bfloat16(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with torch.autocast(device().type, torch.bfloat16):
        return forward(*args, **kwargs)
