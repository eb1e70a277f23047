"""AdamW or Muon, with warm-up and a schedule, and gradient clipping for each model separately."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import nn
from transformers import PreTrainedModel

from tropism.store.fingerprint import ADDED
from tropism.train.muon import Muon

__all__ = ["Optim"]


@dataclass(frozen=True)
class Optim:
    """`warmup` is the share of the updates during which the rate rises; `clip_norm` 0 means no clipping. With `muon`
    the weight matrices of the layers are updated by Muon, which needs fewer updates from scratch; AdamW updates the
    rest."""

    lr: Annotated[float, Gt(0)] = 1e-3
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Annotated[float, Interval(ge=0, le=1)] = 0.05
    weight_decay: Annotated[float, Ge(0)] = 0.0
    betas: tuple[Annotated[float, Interval(ge=0, lt=1)], Annotated[float, Interval(ge=0, lt=1)]] = (0.9, 0.95)
    clip_norm: Annotated[float, Ge(0)] = 1.0
    muon: bool = field(default=False, metadata=ADDED)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of update number `step` (from 0) of `steps`; the last one is above 0."""
        rising = self.warmup * steps
        if step < rising:
            return self.lr * (step + 1) / (rising + 1)
        left = 1 - (step - rising) / max(steps - rising, 1)
        if self.schedule == "linear":
            return self.lr * left
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 - math.cos(math.pi * left))
        return self.lr


def optimizer(models: Mapping[str, PreTrainedModel], optim: Optim) -> torch.optim.AdamW:
    """One optimiser for all models. Weight decay is applied to matrices only."""
    groups = []
    for name, model in models.items():
        parameters = [p for p in model.parameters() if p.requires_grad]
        turned = _hidden(model) if optim.muon else set()
        groups += [
            {"params": [p for p in parameters if p in turned], "weight_decay": optim.weight_decay, "muon": True},
            {"params": [p for p in parameters if p.ndim > 1 and p not in turned], "weight_decay": optim.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups[-3:] = [{**group, "of": name} for group in groups[-3:] if group["params"]]
    kind = Muon if optim.muon else torch.optim.AdamW
    return kind(groups, lr=optim.lr, betas=optim.betas, fused=True)


def _hidden(model: PreTrainedModel) -> set[nn.Parameter]:
    """The weight matrices inside the model: not the embeddings, the LM head or the head that scores."""
    inside = model.base_model
    outside = {p for m in inside.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    if (head := model.get_output_embeddings()) is not None:
        outside |= set(head.parameters())
    return {p for p in inside.parameters() if p.ndim == 2} - outside


def set_rate(optimizer: torch.optim.Optimizer, rates: Mapping[str, float]) -> None:
    """Gives each model's parameters their learning rate for the next update."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group["of"]]


def clip(parameters: Iterable[torch.nn.Parameter], norm: float) -> float:
    """Scales gradients down to a global norm of at most `norm` (0: no limit); returns the norm before that."""
    return float(torch.nn.utils.clip_grad_norm_(list(parameters), norm or math.inf))
