"""Stage: trains a reward model on judged groups: `AutoModelForSequenceClassification` with one label, or a causal LM.

With `score = "likelihood"` it has no head: it stays a causal LM, and the score of a completion is the mean
log-probability of its tokens (SimPO's reward, arXiv 2405.14734, on rankings of K). Before the first update the scores
then already contain the model's knowledge of which tokens fit; a head has to learn this from the order of whole
answers.

Training continues until the loss on held-out groups no longer falls, for at most `passes` passes, and the best weights
are kept. Small models learn the difference between answers late and suddenly, after an unknown number of updates.

The test groups are written to `held_out.parquet` with the model's judgments, for accuracy and calibration. There the
scores are not rescaled, so that a difference of scores is the log-odds of a preference. The scores of the saved model
have standard deviation 1 on the training completions (of 1,024 groups at most, evenly spread), so that the size of a KL
coefficient keeps its meaning.

An ensemble is several of these stages: each has its own order of the data, as its seed depends on its id.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Interval
from transformers import PreTrainedModel

from tropism.algorithms.kwise import KWise
from tropism.errors import TropismError
from tropism.models.folder import context_of, save
from tropism.models.forward import set_units
from tropism.models.layout import layout
from tropism.models.weights import Weights
from tropism.needs import GROUP_TOKENS, Earlier, Needs, training
from tropism.protocols import Algorithm
from tropism.stages._fit import PASS_TOKENS, Data, fit, measure, tell
from tropism.stages._overlap import learns
from tropism.stages._plateau import fit_to_plateau
from tropism.stages._read import fitting, read_split
from tropism.stages._takes import check
from tropism.store.contents import mark
from tropism.store.fingerprint import ADDED
from tropism.store.groups import write_groups
from tropism.store.work import Work
from tropism.tensors.encode import ranks, spans, tree
from tropism.tensors.tree import Tree
from tropism.text.tokenizer import load_tokenizer
from tropism.train.loop import Learner, predict
from tropism.train.optim import Optim
from tropism.types import Group, GroupsRef, Judgment, ModelRef

__all__ = ["Reward"]

HELD_OUT = "held_out.parquet"
FEWEST = 16  # validation groups: with fewer, the best look would be a matter of chance
UNIT_GROUPS = 256  # groups that set the unit of a likelihood's scores at the start of training
LAST_GROUPS = 1024  # groups that set it at the end: more are a pass over the data, and change it by some percent


@dataclass(frozen=True)
class Reward(Weights):
    """`judge` names the judge whose judgments are learned. `passes` is the largest number of passes over the training
    groups; with a `limit` only so many groups are read, the first ones. The share `validation` of the groups is not
    trained on; its loss is measured `looks` times, and training ends after `patience` looks without a new best. With
    `validation = 0` all passes are made.

    `model` gives the initial weights: the policy that sampled (sft), or the pretrained model (base) it came from. Chats
    need a tokenizer with a chat template.
    """

    model: ModelRef
    groups: GroupsRef | tuple[GroupsRef, ...]
    judge: str
    score: Literal["head", "likelihood"] = "head"
    passes: Annotated[float, Gt(0)] = 3.0
    validation: Annotated[float, Interval(ge=0, lt=1)] = 0.05  # share of the prompts
    looks: Annotated[int, Ge(1)] = 12
    patience: Annotated[int, Ge(1)] = 4
    groups_per_step: Annotated[int, Ge(1)] = 16
    too_long: Literal["stop", "skip"] = "stop"
    algorithm: Algorithm = KWise()
    pass_tokens: Annotated[int, Ge(0)] = PASS_TOKENS  # in one forward pass: lower it if memory is short
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-3))
    limit: Annotated[int, Ge(0)] = field(default=0, metadata=ADDED)

    version: ClassVar[int] = 3
    makes: ClassVar[Literal["scorer"]] = "scorer"

    def __post_init__(self) -> None:
        check(
            "reward", self.algorithm, ("reward_N", "rank_N", "others"), ("scorer",), "use one that ranks, such as kwise"
        )

    def needs(self, earlier: Earlier) -> Needs:
        known = earlier.groups(self.groups)
        groups = self.passes * (min(known, self.limit) if self.limit else known)
        return training(
            earlier.model(self.model),
            updates=max(1, round(groups / self.groups_per_step)),
            tokens=int(groups * GROUP_TOKENS),
            at_once=self.groups_per_step * GROUP_TOKENS,
            pass_tokens=self.pass_tokens,
            group=GROUP_TOKENS,
        )

    def run(self, work: Work) -> None:
        train, test = read_split(self.groups, self.limit)
        learns(work, train)
        tokenizer = load_tokenizer(self.model)
        if tokenizer.chat_template is None and any(m.role != "text" for g in train for m in g.prompt):
            raise TropismError(
                f"the groups are chats, but the tokenizer of reward.model {self.model} has no chat template: use a model "
                'that has one, such as the result of an sft stage with chat_template = "tropism"'
            )
        headless = self.score == "likelihood"
        model = (
            self.train_lm(self.model, work.seed, scorer=True) if headless else self.train_scalar(self.model, work.seed)
        )
        tell(work, model)
        context = context_of(model)

        def make(group: Group) -> Tree:
            return ranked(group, self.judge, tree(group, tokenizer, context))

        fitted = fitting(train, make, self.too_long, work)
        trees = [t for _, t in fitted]
        if not any(map(orders, trees)):
            raise TropismError(
                f"{self.judge!r} ranks no two completions of a prompt: sample more, or name another judge"
            )
        if headless and (spread := _scores(model, trees[:UNIT_GROUPS])).std() > 0:
            set_units(model, float(spread.mean()), float(spread.std()))
        tested = fitting(test, make, self.too_long, work) if test else []
        learned, unseen = self._unseen(fitted)
        steps = max(1, round(self.passes * len(learned) / self.groups_per_step))
        learner = Learner({"scorer": model}, self.optim, steps, pass_tokens=self.pass_tokens, layout=self.layout)
        data = Data(learned, steps, groups=self.groups_per_step)
        if unseen:
            fit_to_plateau(work, learner, self.algorithm, data, unseen, self.looks, self.patience)
        else:
            fit(work, learner, self.algorithm, data)
        work.facts |= {
            "groups": len(learned),
            "validation_groups": len(unseen),
            "test_groups": len(tested),
            "steps": learner.done,
        }
        if tested:
            self._test(work, model, tested)
        scores = _scores(model, trees[:: -(-len(trees) // LAST_GROUPS)])
        if (scale := float(scores.std())) > 0:
            model.config.score_scale = scale  # a difference of scores times this is a log-odds
            set_units(model, float(scores.mean()), scale)
        save(model, tokenizer, work.out, self.save_dtype)

    def _test(self, work: Work, model: PreTrainedModel, tested: list[tuple[Group, Tree]]) -> None:
        """Measures the model on the test groups, and writes these with its judgments."""
        trees = [t for _, t in tested]
        numbers = measure({"scorer": model}, self.algorithm, trees)
        work.facts |= {"held_out_loss": round(numbers["loss"].value, 4)}
        if "pair_accuracy" in numbers and (pairs := int(numbers["pair_accuracy"].count)):
            work.facts |= {"held_out_accuracy": round(numbers["pair_accuracy"].value, 4), "held_out_pairs": pairs}
        rest = iter(_scores(model, trees).tolist())
        marked = [
            dataclasses.replace(
                g, judgments=(*g.judgments, Judgment("reward_model@1", tuple(next(rest) for _ in g.completions)))
            )
            for g, _ in tested
        ]
        write_groups(marked, work.out / HELD_OUT)

    def _unseen(self, fitted: list[tuple[Group, Tree]]) -> tuple[list[Tree], list[Tree]]:
        """The trees for training and those for validation, which share no prompt. There are none for validation if too
        few of them would rank two completions."""
        marks = [mark(g) for g, _ in fitted]
        end = sorted(marks)[round(self.validation * len(marks))]
        looked = [t for (_, t), m in zip(fitted, marks) if m < end and orders(t)]
        if len(looked) < FEWEST:
            return [t for _, t in fitted], []
        return [t for (_, t), m in zip(fitted, marks) if m >= end], looked


def orders(found: Tree) -> bool:
    """Whether the tree ranks one completion above another."""
    return len({r for r in found.rank or () if r}) > 1


def ranked(group: Group, judge: str, found: Tree) -> Tree:
    """The tree with the judge's ranks, and rewards for the margin: the scores of an interval judge, or minus the ranks
    of an ordinal one. Raises TropismError for a group of one completion, which ranks nothing."""
    if len(group.completions) < 2:
        raise TropismError(
            f"group {group.id} has {len(group.completions)} completion, but a reward model needs at least "
            "two for each prompt: sample with sampling.n ≥ 2"
        )
    judgment = group.judged(judge)
    rank = ranks(judgment)
    reward = judgment.scores if judgment.scale == "interval" else tuple(-float(r) if r else None for r in rank)
    return dataclasses.replace(found, rank=rank, reward=reward)


@torch.inference_mode()
def _scores(model: PreTrainedModel, trees: list[Tree]) -> torch.Tensor:
    parts = [
        predict({"scorer": model}, ("scores_N",), layout(piece, model, ("scores_N",))).need("scores_N").cpu()
        for piece in spans(trees, PASS_TOKENS)
    ]
    return torch.cat(parts)
