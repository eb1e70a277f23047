"""Early stopping: a stage evaluates held-out trees during training, and keeps the weights with the best loss.

A look is one such evaluation: the loss on trees that are not trained on. Training ends after `patience` looks in a row
without a new best, or with the last update. Then the model gets the weights of the best look, so more updates than
needed do no harm. The looks, and the best weights so far, are part of every checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tropism.protocols import Algorithm
from tropism.stages._best import put_back, remember
from tropism.stages._fit import Data, measure, resumed, train
from tropism.store.work import Work
from tropism.tensors.tree import Tree
from tropism.train.loop import Learner


def fit_to_plateau(
    work: Work,
    learner: Learner,
    algorithm: Algorithm,
    data: Data,
    unseen: Sequence[Tree],
    looks: int,
    patience: int,
) -> None:
    """Trains the learner's one model with at most `data.steps` updates and `looks` evenly spread looks, and keeps the
    weights of the best look."""
    ((role, model),) = learner.models.items()
    place = resumed(work, learner)
    due = {math.ceil(data.steps * (i + 1) / looks) for i in range(looks)}

    def look() -> dict[str, Any]:
        loss = measure({role: model}, algorithm, unseen)["loss"].value
        remember(place.more, model, loss, learner.done)
        return {"validation_loss": loss}

    def watch(before: int, after: int) -> dict[str, Any]:
        return look() if learner.done in due else {}

    def enough() -> bool:
        return place.more.get("worse", 0) >= patience

    train(work, learner, algorithm, data, place, watch=watch, enough=enough)
    put_back(place.more, model)
    work.facts |= {"tokens_trained": place.tokens, "steps": learner.done, "best_step": place.more["best_step"]}
