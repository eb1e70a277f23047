"""Stage: trains a policy on judged groups without sampling: DPO, KTO, and similar algorithms.

The reference is the policy before the first update; it is loaded only if the algorithm or a probe needs it. Scores of
an `ordinal` judge cannot be compared across prompts. Then the reward of a completion is the share of the prompt's other
completions that it beats, ties counting half; so for kto, where a reward above 0.5 is a thumb up, completions above the
median are good. If an algorithm needs the old log-probabilities, they are those of the policy before each update. If it
needs `mismatched` completions, each group gets the answer to another prompt, without a score.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt
from transformers import PreTrainedModel

from tropism.algorithms.dpo import DPO
from tropism.errors import TropismError
from tropism.models.folder import context_of, save
from tropism.models.weights import Weights
from tropism.needs import GROUP_TOKENS, Earlier, Needs, training
from tropism.protocols import Algorithm
from tropism.stages._fit import PASS_TOKENS, Data, resumed, tell
from tropism.stages._overlap import learns, probed
from tropism.stages._probe import Looks, Probe, train_probed
from tropism.stages._read import fitting, read_split
from tropism.stages._takes import SEVERAL, check
from tropism.store.work import Work
from tropism.tensors.batch import Batch
from tropism.tensors.encode import beaten, pick, ranks, tree
from tropism.tensors.tree import Tree
from tropism.text.tokenizer import load_tokenizer
from tropism.train import cost
from tropism.train.loop import Learner
from tropism.train.optim import Optim
from tropism.train.order import Order
from tropism.train.rollouts import annotate, needed
from tropism.types import Group, GroupsRef, PolicyRef, SamplingParams

__all__ = ["Offline"]

_FILLS = ("reward_N", "rank_N", "old_logprobs_BT", "ref_logprobs_BT", "mismatched", "others", "baseline_N")


@dataclass(frozen=True)
class Offline(Weights):
    """`judge` names the judge whose judgments are used. `passes` is the number of passes over the training groups. A
    `budget` in tokens through models (train/cost.py), sampling and judging included, can end them earlier (0:
    never)."""

    policy: PolicyRef
    groups: GroupsRef | tuple[GroupsRef, ...]
    judge: str
    algorithm: Algorithm = DPO()
    passes: Annotated[float, Gt(0)] = 1.0
    groups_per_step: Annotated[int, Ge(1)] = 16
    budget: Annotated[int, Ge(0)] = 0
    too_long: Literal["stop", "skip"] = "stop"
    pass_tokens: Annotated[int, Ge(0)] = PASS_TOKENS  # in one forward pass: lower it if memory is short
    probe: Probe | None = None
    optim: Optim = field(default_factory=lambda: Optim(lr=2e-4))

    version: ClassVar[int] = 3
    makes: ClassVar[Literal["policy"]] = "policy"

    def __post_init__(self) -> None:
        check(
            "offline", self.algorithm, _FILLS, ("policy",), "use one that learns from judged groups, such as dpo or kto"
        )

    def needs(self, earlier: Earlier) -> Needs:
        each = GROUP_TOKENS * self.groups_per_step
        tokens = int(self.passes * earlier.groups(self.groups) / self.groups_per_step * each)
        passes = cost.filling(self.algorithm, sampled=False) + cost.updating(self.algorithm)
        tokens = min(tokens, self.budget // passes) if self.budget else tokens
        return training(
            earlier.model(self.policy),
            updates=max(1, tokens // each),
            tokens=tokens,
            at_once=each,
            pass_tokens=self.pass_tokens,
            group=GROUP_TOKENS,
            keys=("pass_tokens", "policy"),
            frozen=int(self._refers()),
            passes=float(passes),
        )

    def run(self, work: Work) -> None:
        tokenizer = load_tokenizer(self.policy)
        model = self.train_lm(self.policy, work.seed)
        reference = self.freeze_lm(self.policy) if self._refers() else None
        tell(work, model)
        groups, _ = read_split(self.groups)
        learns(work, groups)
        probed(work, self)
        context = context_of(model)
        kept = fitting(groups, lambda g: judged_tree(g, self.judge, tree(g, tokenizer, context)), self.too_long, work)
        trees = [t for _, t in kept]
        if "rank_N" in self.algorithm.needs and not any(len({r for r in t.rank or () if r}) > 1 for t in trees):
            raise TropismError(
                f"{self.judge!r} ranks no two completions of a prompt: name another judge, or an algorithm that needs "
                "no order, such as kto"
            )
        if all(s is None for t in trees for s in t.reward or ()):
            raise TropismError(
                f"{self.judge!r} gave no score to a completion of the training groups, or it only ranks and had one "
                "completion for each prompt: name another judge"
            )
        alone = all(sum(s is not None for s in t.reward or ()) < 2 for t in trees)
        if alone and SEVERAL & {*self.algorithm.needs}:
            raise TropismError(
                f"offline.algorithm {type(self.algorithm).__name__} compares completions of a prompt, but no group has "
                f"two that {self.judge!r} scored: sample more, or use an algorithm that needs only one, such as kto"
            )
        if "mismatched" in self.algorithm.needs:
            trees = mismatched([t for t in map(scored, trees) if t.completions], context)
        paid = sum(cost.sampling(len(t.prompt), g.completions, g.judged(self.judge)) for g, t in kept)
        steps = self._steps(trees, paid, work.seed)
        learner = Learner({"policy": model}, self.optim, steps, pass_tokens=self.pass_tokens, layout=self.layout)
        fill = functools.partial(
            filled, algorithm=self.algorithm, reference=reference, policy=model, pass_tokens=self.pass_tokens
        )
        data = Data(trees, steps, groups=self.groups_per_step)
        place = resumed(work, learner)
        if not learner.done:
            place.spent = paid
        train_probed(Looks(self.probe, model, reference, tokenizer), work, learner, self.algorithm, data, place, fill)
        work.facts |= {
            "groups": len(trees),
            "steps": steps,
            "tokens_generated": sum(len(c.tokens or ()) for g, _ in kept for c in g.completions),
            "tokens_trained": place.tokens,
            "tokens_spent": place.spent,
        }
        save(model, tokenizer, work.out, self.save_dtype)

    def _refers(self) -> bool:
        """Whether the algorithm, or a probe for its KL, asks for the policy before the first update."""
        return self.probe is not None or "ref_logprobs_BT" in needed(self.algorithm)

    def _steps(self, trees: list[Tree], paid: int, seed: int) -> int:
        """The number of updates in `passes`, or fewer if `budget`, of which `paid` is already spent, allows no more."""
        steps = max(1, round(self.passes * len(trees) / self.groups_per_step))
        if not self.budget:
            return steps
        order, spent = Order(len(trees), seed), paid
        each = cost.filling(self.algorithm, sampled=False) + cost.updating(self.algorithm)
        for step in range(steps):
            spent += each * sum(trees[i].size for i in order.take(self.groups_per_step))
            if spent > self.budget and step == 0:
                raise TropismError(
                    f"budget = {self.budget} tokens through models is less than the {spent} of the completions and one "
                    "update: raise it"
                )
            if spent > self.budget:
                return step
        return steps


def judged_tree(group: Group, judge: str, found: Tree) -> Tree:
    """The tree with the judge's ranks and rewards. Rewards are its scores; for an ordinal judge, the share of the
    prompt's other completions that each one beats."""
    judgment = group.judged(judge)
    reward = judgment.scores if judgment.scale == "interval" else beaten(judgment)
    return dataclasses.replace(found, rank=ranks(judgment), reward=reward)


def scored(found: Tree) -> Tree:
    """The tree without completions that have no score."""
    return pick(found, [k for k, reward in enumerate(found.reward or ()) if reward is not None])


def mismatched(trees: list[Tree], context: int) -> list[Tree]:
    """Each tree with the first completion of the previous tree added, without score and rank, cut to fit `context`."""
    if len(trees) < 2:
        raise TropismError("mismatched completions need two groups or more: give more data")
    return [
        dataclasses.replace(
            t,
            completions=(*t.completions, other.completions[0][: context - len(t.prompt)]),
            trained=(*t.trained, other.trained[0][: context - len(t.prompt)]),
            ended=(*t.ended, other.ended[0]),
            logprobs=None,
            reward=None if t.reward is None else (*t.reward, None),
            rank=None if t.rank is None else (*t.rank, 0),
        )
        for t, other in zip(trees, [trees[-1], *trees[:-1]])
    ]


def filled(
    batch: Batch, algorithm: Algorithm, reference: PreTrainedModel | None, policy: PreTrainedModel, pass_tokens: int
) -> Batch:
    """The batch with the fields that the algorithm needs; as nothing was sampled, `old` is the current policy."""
    return annotate(batch, needed(algorithm), reference, None, SamplingParams(), pass_tokens, policy)
