"""A copy of a model in fewer bits, to sample from while the model itself is trained (docs/decisions/0058)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def rounded(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Another model with the weights in `dtype`. Buffers, such as the frequencies of positions, keep theirs."""
    cast: dict[int, Any] = {
        id(weight): nn.Parameter(weight.detach().to(dtype), requires_grad=False) for weight in model.parameters()
    }
    return copy.deepcopy(model, cast)


@torch.no_grad()
def follow(made: PreTrainedModel, model: PreTrainedModel) -> None:
    """Copies the weights again, after they have changed."""
    for mine, theirs in zip(made.parameters(), model.parameters(), strict=True):
        mine.copy_(theirs)
