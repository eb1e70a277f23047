"""Trees as a Batch: where the layout of a batch is chosen, for every stage and judge."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from tropism.models.masks import takes_trees
from tropism.tensors.batch import Batch, Tree, collate

ROW_TOKENS = 128  # short rows: a dense mask costs their square, and a CPU gains nothing from long ones


def layout(trees: Sequence[Tree], model: PreTrainedModel, predicts: Sequence[str] = ("logprobs_BT",)) -> Batch:
    """A Batch on the model's device, in the layout that the model can take and the cheapest for what it predicts."""
    twins = set(predicts) <= {"scores_N", "scores_BT"}
    return collate(trees, ROW_TOKENS, shared=takes_trees(model), twins=twins).to(model.device)
