"""AdamW with warm-up and a schedule, and gradient clipping that is really applied, model by model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Interval
from transformers import PreTrainedModel

__all__ = ["Optim"]


@dataclass(frozen=True)
class Optim:
    """`warmup` is the share of the updates over which the rate rises; `clip_norm` 0 clips nothing."""

    lr: Annotated[float, Gt(0)] = 1e-3
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Annotated[float, Interval(ge=0, le=1)] = 0.05
    weight_decay: Annotated[float, Ge(0)] = 0.0
    betas: tuple[Annotated[float, Interval(ge=0, lt=1)], Annotated[float, Interval(ge=0, lt=1)]] = (0.9, 0.95)
    clip_norm: Annotated[float, Ge(0)] = 1.0

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


def adamw(models: Mapping[str, PreTrainedModel], optim: Optim) -> torch.optim.AdamW:
    """One optimiser over all models. Weight decay touches matrices only."""
    groups = []
    for name, model in models.items():
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups.append({"params": [p for p in parameters if p.ndim > 1], "weight_decay": optim.weight_decay, "of": name})
        groups.append({"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, "of": name})
    kept = [g for g in groups if g["params"]]
    return torch.optim.AdamW(kept, lr=optim.lr, betas=optim.betas, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rates: Mapping[str, float]) -> None:
    """Gives each model's parameters their learning rate for the next update."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group["of"]]


def clip(parameters: Iterable[torch.nn.Parameter], norm: float) -> float:
    """Scales gradients down to a global norm of at most `norm` (0: leaves them); returns the norm before."""
    return float(torch.nn.utils.clip_grad_norm_(list(parameters), norm or math.inf))
