"""When to stop: a stage looks at held-out trees while it trains, and keeps the weights of the best look.

A look is the loss of trees that no update has seen. Training ends after `patience` looks in a row that were no better than
the best one before them, or with the last update. What is left in the model are the weights of the best look, so that a
stage may be given more updates than it turns out to need, and none that spoil it. The looks, and the best weights so far,
are part of every checkpoint.
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
    """Trains the learner's one model with at most `data.steps` updates, and leaves the weights of the best of `looks`
    looks, evenly spread."""
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
