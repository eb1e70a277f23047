"""Stage: a reward model from judged groups, as `AutoModelForSequenceClassification` with one label.

The held-out groups come back in `held_out.parquet` with the model's judgment added, for calibration and accuracy: in
the scale of the likelihood, where a difference of scores is the log-odds of a preference. The saved model's scores have
standard deviation 1 on the training completions, so that a KL coefficient keeps its meaning.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from transformers import PreTrainedModel

from tropism.algorithms.kwise import KWise
from tropism.models.store import context_of, load_scalar, save
from tropism.stages._train import PASS_TOKENS, Data, fit, fitting, layout, measure, read_split
from tropism.store import groups as store
from tropism.store.run import Work
from tropism.tensors.batch import Tree
from tropism.text import tokenizer
from tropism.train.loop import Learner, predict
from tropism.train.optim import Optim
from tropism.train.trees import judged, ranks, spans, tree
from tropism.types import Algorithm, Group, GroupsRef, Judgment, ModelRef, TropismError

__all__ = ["Reward"]

HELD_OUT = "held_out.parquet"


@dataclass(frozen=True)
class Reward:
    """`judge` names whose judgments are learned; `passes` over the training groups are made."""

    model: ModelRef
    groups: GroupsRef
    judge: str
    passes: float = 3.0
    groups_per_step: int = 16
    too_long: Literal["stop", "skip"] = "stop"
    algorithm: Algorithm = KWise()
    pass_tokens: int = PASS_TOKENS  # in one forward pass: lower it if memory is short
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-3))

    version: ClassVar[int] = 1
    makes: ClassVar[Literal["model"]] = "model"

    def run(self, work: Work) -> None:
        train, test = read_split(self.groups)
        words = tokenizer.load(self.model)
        model = load_scalar(self.model)
        context = context_of(model)

        def make(group: Group) -> Tree:
            return ranked(group, self.judge, tree(group, words, context))

        trees = [t for _, t in fitting(train, make, self.too_long, work)]
        if not any(len({r for r in t.rank or () if r}) > 1 for t in trees):
            raise TropismError(f"no group orders any two completions by {self.judge!r}: sample more, or name a judge")
        tested = fitting(test, make, self.too_long, work) if test else []
        steps = max(1, round(self.passes * len(trees) / self.groups_per_step))
        learner = Learner({"scorer": model}, self.optim, steps, pass_tokens=self.pass_tokens)
        fit(work, learner, self.algorithm, Data(trees, steps, groups=self.groups_per_step))
        work.facts |= {"groups": len(trees), "test_groups": len(tested), "steps": steps}
        if tested:
            test_trees = [t for _, t in tested]
            numbers = measure({"scorer": model}, self.algorithm, test_trees)
            work.facts |= {"held_out_loss": round(numbers["loss"].value, 4)}
            rest = iter(_scores(model, test_trees).tolist())
            marked = [
                dataclasses.replace(
                    g,
                    judgments=(
                        *g.judgments,
                        Judgment("reward_model@1", tuple(next(rest) for _ in g.completions)),
                    ),
                )
                for g, _ in tested
            ]
            store.write(marked, work.out / HELD_OUT)
        scale = _scores(model, trees).std()
        if scale > 0:
            model.config.score_scale = float(scale)  # what a difference of scores is multiplied by to be a log-odds
            with torch.no_grad():
                model.get_submodule("score").get_parameter("weight").div_(scale.to(model.device))
        save(model, words, work.out)


def ranked(group: Group, judge: str, found: Tree) -> Tree:
    """The tree with the judge's ranks; a group of one completion ranks nothing and is refused."""
    if len(group.completions) < 2:
        raise TropismError(
            f"group {group.id} has {len(group.completions)} completion: a reward model needs at least "
            "two of a prompt, so sample with sampling.n ≥ 2"
        )
    return dataclasses.replace(found, rank=ranks(judged(group, judge)))


@torch.inference_mode()
def _scores(model: PreTrainedModel, trees: list[Tree]) -> torch.Tensor:
    parts = [
        predict({"scorer": model}, ("scores_N",), layout(piece, model, ("scores_N",))).need("scores_N").cpu()
        for piece in spans(trees, PASS_TOKENS)
    ]
    return torch.cat(parts)
