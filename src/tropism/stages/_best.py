"""The best weights of all looks, which a stage may leave instead of its last ones.

They stand in a table of plain values and tensors that is part of every checkpoint: `best_loss`, the lowest so far; `best`,
the weights it was seen at; `best_step`, how far training was; `worse`, how many looks since then were no better.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tropism.models.adapters import load_trained, trained_state


def remember(kept: dict[str, Any], model: PreTrainedModel, loss: float, step: int) -> None:
    """Takes the weights into `kept` if no look before had so low a `loss`; a look that is as good as the best is none."""
    if not loss >= kept.get("best_loss", math.inf):
        best: dict[str, Tensor] = {name: value.clone() for name, value in trained_state(model).items()}
        kept |= {"best_loss": loss, "best_step": step, "best": best, "worse": 0}
    else:
        kept["worse"] += 1


@torch.no_grad()
def put_back(kept: dict[str, Any], model: PreTrainedModel) -> None:
    """Gives the model the weights of the best look."""
    load_trained(model, kept["best"])
