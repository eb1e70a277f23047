"""Finds the way of decoding for a model: the fastest one that gives the same logits as plain calls; tried once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tropism.engines._rows import Again, Cached
from tropism.engines._slots import Slots
from tropism.models.halves import alike, probe_tokens, vocabulary_of
from tropism.models.masks import takes_masks

FOUND = "_way"  # the attribute of a model with the name of its way
WAYS: dict[str, type[Slots | Cached | Again]] = {"slots": Slots, "cached": Cached, "again": Again}
NOTES = {
    "cached": "prompts of the same length are sampled together, with the model's own cache",
    "again": "prompts of the same length are sampled together, each token from the whole text (no cache to reorder)",
}


def way_of(model: PreTrainedModel) -> str:
    """The name of the way of decoding for a model."""
    if FOUND not in model.__dict__:
        model.__dict__[FOUND] = "slots" if takes_masks(model) and _agrees(model, Slots) else _by_rows(model)
    return model.__dict__[FOUND]


def _by_rows(model: PreTrainedModel) -> str:
    return "cached" if _agrees(model, Cached) else "again"


@torch.inference_mode()
def _agrees(model: PreTrainedModel, kind: type[Slots | Cached]) -> bool:
    """Whether three samples of two prompts, one of which ends early, get the same logits as plain calls."""
    ids = probe_tokens(model, 9).tolist()
    pad = getattr(model.config, "pad_token_id", None)
    if pad in range(vocabulary_of(model)):
        ids[2] = pad  # some families count positions without padding tokens, even if these were sampled
    prompts = [ids[:5], ids[5:8] if kind.joins else ids[4:9]]
    texts = [prompts[0], prompts[0], prompts[1]]
    way: Any = kind(model, 3, 8)
    try:
        said = [*zip(texts, way.admit(prompts, [0, 0, 1]))]
        for stays in ([0, 1, 2], [2, 1], [0, 1]):  # the first row leaves before the second step
            way.keep(torch.tensor(stays, device=model.device))
            texts = [[*texts[i], ids[i]] for i in stays]
            said += zip(texts, way.step(torch.tensor([text[-1] for text in texts], device=model.device)))
    except Exception:  # a family's code may raise any error when it is used in an unexpected way
        return False
    plainly: dict[tuple[int, ...], Tensor] = {}
    for text, found in reversed(said):  # the longest first: it has the logits of its beginnings
        whole = next((w for w in plainly if list(w[: len(text)]) == text), None)
        if whole is None:
            whole = tuple(text)
            plainly[whole] = model(input_ids=torch.tensor([text], device=model.device), use_cache=False).logits[0]
        real = torch.isfinite(found)  # what is never sampled has no logit
        if not alike(found[real], plainly[whole][len(text) - 1].float()[real]):
            return False
    return True
