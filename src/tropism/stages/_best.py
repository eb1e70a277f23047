"""The best weights of all looks (evaluations during training), which a stage may keep instead of its last ones.

They are in a table of plain values and tensors that is part of every checkpoint: `best_loss` is the lowest loss so far,
`best` the weights with it, `best_step` the step of that look, `worse` the number of later looks without a better loss.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tropism.models.adapters import load_trained, trained_state


def remember(kept: dict[str, Any], model: PreTrainedModel, loss: float, step: int) -> None:
    """Copies the weights into `kept` if this `loss` is lower than at all earlier looks; an equal loss is not better."""
    if not loss >= kept.get("best_loss", math.inf):
        best: dict[str, Tensor] = {name: value.clone() for name, value in trained_state(model).items()}
        kept |= {"best_loss": loss, "best_step": step, "best": best, "worse": 0}
    else:
        kept["worse"] += 1


@torch.no_grad()
def put_back(kept: dict[str, Any], model: PreTrainedModel) -> None:
    """Loads the weights of the best look into the model."""
    load_trained(model, kept["best"])
