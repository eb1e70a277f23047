"""Checks that a file has exactly the model's weights: transformers would invent missing ones and drop others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tropism.errors import TropismError
from tropism.models.halves import HEAD


def check(model: Any, info: dict[str, Any], path: str | Path, new_head: bool) -> None:
    """Raises TropismError, with names, if the weights in a file are not those of the model.

    `info` is transformers' loading report. With `new_head` a language model is loaded as a model with a score head:
    that head is new, and weights outside the backbone are ignored.
    """
    missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
    unexpected -= {name for name, _ in model.named_buffers()}  # saved by an older release; now computed
    if new_head:
        prefix = f"{model.base_model_prefix}."
        missing -= {f"{HEAD}.weight"}
        unexpected = {name for name in unexpected if name.startswith(prefix)}
    wrong = sorted(info["mismatched_keys"])
    said = [
        f"{len(names)} weights {what}, such as {min(names)}"
        for names, what in ((missing, "are missing"), (unexpected, "have no place"))
        if names
    ]
    if wrong:
        name, found, asked = wrong[0][:3]
        said.append(f"{name} is {_shape(found)} and should be {_shape(asked)}")
    if said:
        raise TropismError(
            f"{path} does not have the weights that its config.json describes ({'; '.join(said)}): give a complete "
            "folder, or the config that belongs to the weights"
        )


def check_finite(model: Any, path: str | Path) -> None:
    """Raises TropismError if a weight is not a number."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise TropismError(f"the weight {name} of {path} has values that are not finite: give an undamaged model")


def _shape(size: Any) -> str:
    return " x ".join(str(n) for n in size)
