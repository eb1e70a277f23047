"""Shared by the stages that train on trees: passes over trees in memory, with checkpoints and a held-out loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from tropism.models.layout import layout
from tropism.models.masks import takes_trees
from tropism.protocols import Algorithm
from tropism.store.work import Work
from tropism.tensors.batch import Batch
from tropism.tensors.encode import PASS_TOKENS, spans
from tropism.tensors.ratio import Ratio, total
from tropism.tensors.tree import Tree
from tropism.train import cost
from tropism.train.loop import Learner, NotFinite, predict, values
from tropism.train.order import Order


@dataclasses.dataclass(frozen=True)
class Data:
    """The training trees, the tokens of an update (0: `groups` trees instead), and the number of updates."""

    trees: Sequence[Tree]
    steps: int
    tokens: int = 0
    groups: int = 0

    def take(self, order: Order) -> list[Tree]:
        if not self.tokens:
            return [self.trees[i] for i in order.take(self.groups)]
        taken: list[Tree] = []
        size = 0
        while size < self.tokens:
            taken.append(self.trees[order.take(1)[0]])
            size += taken[-1].size
        return taken


@dataclasses.dataclass(frozen=True)
class Resampled(Data):
    """Data of which a `share`, evenly spread, gets new answers each time it is taken; `answered` makes these trees."""

    share: float = 0.0
    answered: Callable[[Sequence[int]], list[Tree]] = lambda some: []

    def take(self, order: Order) -> list[Tree]:
        places = range(order.position, order.position + self.groups)
        taken = order.take(self.groups)
        own = [int((p + 1) * self.share) > int(p * self.share) for p in places]
        fresh = iter(self.answered([i for i, mine in zip(taken, own) if mine]) if any(own) else ())
        return [next(fresh) if mine else self.trees[i] for i, mine in zip(taken, own)]


@dataclasses.dataclass
class Place:
    """Where a training run is: the data taken, the tokens trained on, what has been spent (`train/cost.py`). `before`
    counts the updates of earlier runs of the same stage, and `more` goes into every checkpoint as it is."""

    position: int = 0
    tokens: int = 0
    spent: int = 0
    before: int = 0
    more: dict[str, Any] = dataclasses.field(default_factory=dict)

    def save(self, work: Work, learner: Learner) -> None:
        saved = {"position": self.position, "tokens": self.tokens, "spent": self.spent, **self.more}
        work.save(self.before + learner.done, lambda folder: learner.save(folder, **saved))


def tell(work: Work, model: PreTrainedModel) -> None:
    """Notes if training this model is slower than usual."""
    if not takes_trees(model):
        work.note(f"{type(model).__name__} trains on padded rows: its layers cannot use the mask of shared rows")


def fit(work: Work, learner: Learner, algorithm: Algorithm, data: Data) -> None:
    """Trains from the newest checkpoint, or from the start, to the last step."""
    place = resumed(work, learner)
    train(work, learner, algorithm, data, place)
    work.facts["tokens_trained"] = place.tokens


def resumed(work: Work, learner: Learner) -> Place:
    """The place of the newest checkpoint, which is loaded into the learner; the beginning if there is none."""
    found = work.restore()
    saved = learner.restore(found[1]) if found else {}
    return Place(saved.pop("position", 0), saved.pop("tokens", 0), saved.pop("spent", 0), more=saved)


def train(
    work: Work,
    learner: Learner,
    algorithm: Algorithm,
    data: Data,
    place: Place,
    prepare: Callable[[Batch], Batch] = lambda batch: batch,
    watch: Callable[[int, int], dict[str, Any]] = lambda before, after: {},
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Makes updates, starting at `place`, until the learner has done `data.steps` of them or `enough` returns True.

    `prepare` fills the fields of a batch that the algorithm needs. `watch` gets the tokens spent before and after an
    update, and returns more metrics for it. Updates without more metrics are logged only now and then.
    """
    model = next(iter(learner.models.values()))
    each = cost.filling(algorithm, sampled=False) + cost.updating(algorithm)
    order = Order(len(data.trees), work.seed, place.position)
    with work.progress("training", data.steps) as bar:
        bar.advance(learner.done, rated=0)
        while learner.done < data.steps and not enough():
            before = place.spent
            taken = data.take(order)
            batch = prepare(layout(taken, model, algorithm.predicts, learner.layout, learner.pass_tokens))
            try:
                numbers = values(learner.update(algorithm, algorithm.credit(batch)))
            except NotFinite as error:
                raise error.with_checkpoint(work.last_checkpoint()) from None
            fresh = sum(t.size for t in taken)
            place.position, place.tokens = order.position, place.tokens + fresh
            place.spent += each * fresh
            bar.advance(1, rated=fresh)
            bar.show(**{name: numbers[name] for name in ("loss",) if name in numbers})
            more = watch(before, place.spent)
            if more or learner.done % max(data.steps // 200, 1) == 0 or learner.done == data.steps:
                work.log(step=place.before + learner.done, layout=batch.layout, **numbers, **more)
            if work.due() and learner.done < data.steps and not enough():
                place.save(work, learner)


@torch.no_grad()
def measure(models: dict[str, PreTrainedModel], algorithm: Algorithm, trees: Sequence[Tree]) -> dict[str, Ratio]:
    """The loss and metrics of held-out trees, without training on them."""
    model = next(iter(models.values()))
    parts = []
    for piece in spans(trees, PASS_TOKENS):
        batch = layout(piece, model, algorithm.predicts)
        loss, more = algorithm.loss(batch, predict(models, algorithm.predicts, batch))
        parts.append({"loss": loss, **more})
    return total(parts)
