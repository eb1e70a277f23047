"""Finds the way of decoding for a model: the fastest one that gives the same logits as plain calls; tried once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tropism.engines._plain import Again, Cached
from tropism.engines._sequence import Sequenced
from tropism.engines._store import Store
from tropism.models.halves import alike, logits, probe_tokens, vocabulary_of
from tropism.models.masks import takes_masks

Way = Store | Cached | Again
FOUND = "_way"  # the attribute of a model with the name of its way
WAYS: dict[str, type[Way]] = {"pages": Store, "cached": Cached, "again": Again}
NOTES = {
    "cached": "samples of the same length are run together, with the model's own cache",
    "again": "samples of the same length are run together, each token from the whole text (no cache to reorder)",
}


def way_of(model: PreTrainedModel) -> str:
    """The name of the way of decoding for a model."""
    if FOUND not in model.__dict__:
        model.__dict__[FOUND] = "pages" if takes_masks(model) and _agrees(model, Store) else _without_pages(model)
    return model.__dict__[FOUND]


def _without_pages(model: PreTrainedModel) -> str:
    return "cached" if _agrees(model, Cached) else "again"


@torch.inference_mode()
def _agrees(model: PreTrainedModel, kind: type[Way]) -> bool:
    """Whether two forks of one prompt and a second prompt, of which the first ends early, get the same logits as plain
    calls."""
    ids = probe_tokens(model, 9).tolist()
    pad = getattr(model.config, "pad_token_id", None)
    if pad in range(vocabulary_of(model)):
        ids[2] = pad  # some families count positions without padding tokens, even if these were sampled
    try:
        said = _said(model, kind(model), ids)
    except Exception:  # a family's code may raise any error when it is used in an unexpected way
        return False
    plainly: dict[tuple[int, ...], Tensor] = {}
    for text, found in reversed(said):  # the longest first: it has the logits of its beginnings
        whole = next((w for w in plainly if w[: len(text)] == text), None)
        if whole is None:
            plainly[text] = model(input_ids=torch.tensor([text], device=model.device), use_cache=False).logits[0]
        real = torch.isfinite(found)  # what is never sampled has no logit
        if not real.any() or not alike(found[real], plainly[whole or text][len(text) - 1].float()[real]):
            return False
    return True


def _said(model: PreTrainedModel, way: Any, ids: list[int]) -> list[tuple[tuple[int, ...], Tensor]]:
    """Texts and the logits after them, as a way computes them."""
    prompts = [Sequenced(ids[:5]), Sequenced(ids[5:8] if way.chunks else ids[4:9])]
    first, second = logits(model, way.run(prompts, [s.pending for s in prompts]))[_ends(prompts)]
    said = [(tuple(s.tokens), found) for s, found in zip(prompts, (first, second))]
    rows = [*way.fork(prompts[0], 2), prompts[1]]
    way.free(prompts[0])
    for stays in ([0, 1, 2], [2, 1], [0, 1]):  # the first row leaves before the second step
        for row in {*range(len(rows))} - {*stays}:
            way.free(rows[row])
        rows = [rows[i] for i in stays]
        for i, row in zip(stays, rows):
            row.tokens.append(ids[i])
        found = logits(model, way.run(rows, [1] * len(rows)))
        said += [(tuple(row.tokens), one) for row, one in zip(rows, found)]
    return said


def _ends(sequences: list[Sequenced]) -> list[int]:
    """The last row of each of some sequences that were run from their beginning."""
    lengths = [len(s.tokens) for s in sequences]
    return [sum(lengths[: i + 1]) - 1 for i in range(len(lengths))]
