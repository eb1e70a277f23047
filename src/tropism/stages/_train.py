"""What the stages share that train on trees: passes over trees that fit in memory, with checkpoints and a held-out loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tropism.models.masks import takes_trees
from tropism.store import groups as store
from tropism.store.contents import mark, side
from tropism.store.run import Work
from tropism.tensors.batch import Batch, Ratio, Tree, total
from tropism.text.chat import prompt_tokens
from tropism.text.template import Refused
from tropism.train import cost
from tropism.train.layout import layout
from tropism.train.loop import Learner, NotFinite, predict, values
from tropism.train.order import Order
from tropism.train.trees import TooLong, bounded, named, spans
from tropism.types import Algorithm, Format, Group, TropismError

PASS_TOKENS = 16_384


@dataclasses.dataclass(frozen=True)
class Data:
    """Trees in training, how many tokens an update takes (0: `groups` trees instead), how many updates there are."""

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
    """Says where a model is trained in a slower way than most."""
    if not takes_trees(model):
        work.note(f"{type(model).__name__} trains on padded rows: its layers take no mask that completions could share")


def fit(work: Work, learner: Learner, algorithm: Algorithm, data: Data) -> None:
    """Trains from the newest checkpoint, or from the start, to the last step."""
    place = resumed(work, learner)
    train(work, learner, algorithm, data, place)
    work.facts["tokens_trained"] = place.tokens


def resumed(work: Work, learner: Learner) -> Place:
    """Where the newest checkpoint was, with the learner put back to it; the beginning if there is none."""
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
    """Updates until the learner has done `data.steps`, or it is `enough`, from `place` on.

    `prepare` fills a batch with what the algorithm needs. `watch` is told what was spent before and after an update, and
    returns what else to log of it; with nothing to add, as many lines are logged as there is room for.
    """
    model = next(iter(learner.models.values()))
    each = cost.filling(algorithm, sampled=False) + cost.updating(algorithm)
    order = Order(len(data.trees), work.seed, place.position)
    with work.progress("training", data.steps) as bar:
        bar.advance(learner.done, rated=0)
        while learner.done < data.steps and not enough():
            taken = data.take(order)
            batch = prepare(layout(taken, model, algorithm.predicts, learner.layout))
            try:
                numbers = values(learner.update(algorithm, algorithm.credit(batch)))
            except NotFinite as error:
                raise error.with_checkpoint(work.last_checkpoint()) from None
            fresh, before = sum(t.size for t in taken), place.spent
            place.position, place.tokens, place.spent = order.position, place.tokens + fresh, before + each * fresh
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


def read(source: Format, what: str, work: Work) -> list[Group]:
    """All groups of a format; what it left out is counted and shown."""
    records = source.groups()
    groups = list(records)
    if skipped := getattr(records, "skipped", []):
        work.note(f"{len(skipped)} broken records left out of {what}; the first: {skipped[0]}")
        work.facts["left_out"] = work.facts.get("left_out", 0) + len(skipped)
    if not groups:
        raise TropismError(f"{what} is empty: name a file with at least one record")
    return groups


def documents(source: Format, work: Work) -> list[Group]:
    """All groups of a format, each of which has a text."""
    groups = read(source, "data", work)
    if empty := next((g.id for g in groups if not g.completions), None):
        raise TropismError(f"group {empty} has no text to learn from: name a format of documents, such as text")
    return groups


def fitting(
    groups: Sequence[Group],
    make: Callable[[Group], Tree],
    too_long: Literal["stop", "skip"],
    work: Work,
    source: Format | None = None,
) -> list[tuple[Group, Tree]]:
    """Groups with their trees. Those that do not fit the model's context stop the stage, or are left out and counted; so
    are those that the chat template refuses, by the `on_error` of the format they come from, its `source`."""
    kept: list[tuple[Group, Tree]] = []
    refused: list[str] = []
    for group in groups:
        try:
            kept.append((group, make(group)))
        except TooLong as error:
            if too_long == "stop":
                raise TropismError(f'{error}; or set too_long = "skip" to leave such groups out') from None
        except Refused as error:
            on_error = getattr(source, "on_error", None)
            if on_error != "skip":
                remedy = '; or set on_error = "skip" on the data to leave such groups out' if on_error else ""
                raise Refused(f"{error}{remedy}") from None
            refused.append(str(error))
    if refused:
        work.note(f"{len(refused)} of {len(groups)} groups left out; the first: {refused[0]}")
        work.facts["left_out"] = work.facts.get("left_out", 0) + len(refused)
    if left_out := len(groups) - len(kept) - len(refused):
        work.note(f"{left_out} of {len(groups)} groups do not fit the model's context and were left out")
        work.facts["too_long"] = work.facts.get("too_long", 0) + left_out
    if not kept:
        if refused:
            raise TropismError(f"no group is left; the first of {len(refused)} that were refused: {refused[0]}")
        raise TropismError("no group fits the model's context: use a model with a longer one")
    return kept


def question(group: Group, words: PreTrainedTokenizerBase, context: int, max_tokens: int) -> Tree:
    """The prompt of a group as a Tree without completions. Raises TooLong if an answer would not fit behind it."""
    bounded(group, words, context)
    with named(group):
        prompt = prompt_tokens(words, group.prompt)
    if len(prompt) + max_tokens > context:
        raise TooLong(
            f"the prompt of group {group.id} has {len(prompt)} tokens, and with sampling.max_tokens = {max_tokens} that "
            f"exceeds the model's context of {context}: shorten the prompt, lower sampling.max_tokens"
        )
    return Tree(group.id, tuple(prompt), (), (), ())


def held_out(groups: Sequence[Group], share: float) -> tuple[list[Group], list[Group]]:
    """(train, test), by content: what is held out is not asked or said in training. If that leaves nothing to train on,
    nothing is held out."""
    if not 0 <= share <= 0.5:
        raise TropismError(f"held_out = {share} is no share of the data to keep from training: use 0 to 0.5")
    sides = [side(g, share) for g in groups]
    if "train" not in sides:
        return list(groups), []
    train, test = ([g for g, s in zip(groups, sides) if s == which] for which in ("train", "test"))
    return train, test


def read_split(paths: str | Sequence[str]) -> tuple[list[Group], list[Group]]:
    """(train, test) of groups, of one label stage or several. A prompt that one of them holds out is held out in all, so
    the largest of their shares counts."""
    groups = [g for path in ([paths] if isinstance(paths, str) else paths) for g in store.read(path)]
    marks = [mark(g) for g in groups]
    secret = {m for g, m in zip(groups, marks) if g.meta.get("split") == "test"}
    train = [g for g, m in zip(groups, marks) if m not in secret]
    if not train:
        raise TropismError(f"{paths} holds no training groups: lower `test` in the label stage")
    return train, [g for g, m in zip(groups, marks) if m in secret]
