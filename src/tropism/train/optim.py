"""AdamW with warm-up and a schedule, and gradient clipping that is really applied, model by model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from tropism.types import TropismError


@dataclass(frozen=True)
class Optim:
    """`warmup` is the share of the updates over which the rate rises; `clip_norm` 0 clips nothing."""

    lr: float = 1e-3
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.05
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.lr <= 0 or not 0 <= self.warmup <= 1:
            raise TropismError(f"optim.lr = {self.lr} must be above 0 and optim.warmup = {self.warmup} a share of 1")

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
