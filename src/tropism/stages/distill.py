"""Stage: trains a policy to be similar to a teacher, on its own answers and on given ones (GKD, arXiv 2306.13649).

In each update the policy itself answers the share `on_policy` of the prompts; the others keep the answers in the data.
At each token of an answer the algorithm compares the next-token distributions of the policy and the teacher. From its
own answers the policy learns what to do after its own mistakes, which given answers do not show. The teacher's
distributions, with a number for each token of the vocabulary, are computed during training and never stored.

Left out: answers sampled from the teacher (they can be given as data), a reward in addition to the divergence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Interval

from tropism.algorithms.gkd import GKD
from tropism.engines.local import Local
from tropism.models.folder import context_of, save
from tropism.models.masks import takes_trees
from tropism.models.vocabulary import know
from tropism.models.weights import Weights
from tropism.needs import Earlier, Needs, mean_tokens, training
from tropism.protocols import Algorithm, EngineSpec, Format
from tropism.stages._fit import PASS_TOKENS, Resampled, resumed, tell
from tropism.stages._overlap import learns, probed
from tropism.stages._probe import Looks, Probe, train_probed
from tropism.stages._read import fitting, read
from tropism.stages._takes import check_distils, check_teacher
from tropism.store.work import Work
from tropism.tensors.encode import demonstration, question, tree
from tropism.tensors.tree import Tree
from tropism.text.tokenizer import load_tokenizer
from tropism.train.loop import Learner
from tropism.train.optim import Optim
from tropism.train.rollouts import sample
from tropism.types import Group, PolicyRef, SamplingParams

__all__ = ["Distill"]


@dataclass(frozen=True)
class Distill(Weights):
    """`data` has prompts, and an answer to each if `on_policy` is less than 1 (of a conversation, the last answer). The
    policy samples `sampling.n` completions for each prompt. The policy's tokenizer and chat template are used; the
    teacher must have the same tokenizer. A probe's KL is to the policy before the first update."""

    policy: PolicyRef
    teacher: PolicyRef
    data: Format
    on_policy: Annotated[float, Interval(ge=0, le=1)] = 1.0  # share of the prompts
    algorithm: Algorithm = GKD()
    steps: Annotated[int, Ge(1)] = 200
    groups_per_step: Annotated[int, Ge(1)] = 32
    sampling: SamplingParams = SamplingParams(n=1, max_tokens=48)
    too_long: Literal["stop", "skip"] = "stop"
    pass_tokens: Annotated[int, Ge(0)] = PASS_TOKENS  # in one forward pass: lower it if memory is short
    probe: Probe | None = None
    optim: Optim = field(default_factory=lambda: Optim(lr=2e-4))
    engine: EngineSpec = Local()

    version: ClassVar[int] = 1
    makes: ClassVar[Literal["policy"]] = "policy"

    def __post_init__(self) -> None:
        check_distils(self.algorithm)

    def needs(self, earlier: Earlier) -> Needs:
        check_teacher(self.policy, self.teacher, earlier.stages)
        policy, teacher = earlier.model(self.policy), earlier.model(self.teacher)
        size = -(-teacher.parameters // policy.parameters) if policy and teacher else 1  # policies in a teacher
        sampled = self.on_policy * self.sampling.n * self.sampling.max_tokens
        each = mean_tokens(self.data.groups()) + int(sampled)
        at_once = self.groups_per_step * each
        return training(
            policy,
            updates=self.steps,
            tokens=self.steps * at_once,
            at_once=at_once,
            pass_tokens=self.pass_tokens,
            group=each,
            keys=("pass_tokens", "teacher"),
            frozen=size,
            passes=3.0 + size + self.on_policy,
        )

    def run(self, work: Work) -> None:
        check_teacher(self.policy, self.teacher)
        tokenizer = load_tokenizer(self.policy)
        policy, teacher = self.train_lm(self.policy, work.seed), self.freeze_lm(self.teacher)
        know(teacher, tokenizer)
        tell(work, policy)
        context = min(context_of(policy), context_of(teacher))

        def make(group: Group) -> Tree:
            asked = question(group, tokenizer, context, self.sampling.max_tokens if self.on_policy else 0)
            return asked if self.on_policy == 1 else demonstration(group, tokenizer, context, "last")

        groups, trees = zip(*fitting(read(self.data, "data", work), make, self.too_long, work, self.data))
        learns(work, groups)
        probed(work, self)
        engine = self.engine.open(policy, tokenizer, f"{work.fingerprint}@0")
        engine.tell(work.note)
        layout = self.layout if self.layout != "auto" or takes_trees(teacher) else "padded"
        learner = Learner({"policy": policy}, self.optim, self.steps, {}, self.pass_tokens, None, layout, teacher)
        place = resumed(work, learner)

        def answered(some: Sequence[int]) -> list[Tree]:
            engine.load(None, f"{work.fingerprint}@{learner.done}")
            asked, seed = [groups[i] for i in some], self.sampling.seed + (work.seed << 20) + learner.done
            found = sample(asked, engine, replace(self.sampling, seed=seed))
            fresh = [tree(replace(g, completions=c), tokenizer, context) for g, c in zip(asked, found)]
            place.spent += sum(t.size for t in fresh)
            return fresh

        data = Resampled(trees, self.steps, 0, self.groups_per_step, self.on_policy, answered)
        looks = Looks(self.probe, policy, self.freeze_lm(self.policy) if self.probe else None, tokenizer)
        train_probed(looks, work, learner, self.algorithm, data, place)
        work.facts |= {"groups": len(groups), "tokens_trained": place.tokens, "tokens_spent": place.spent}
        save(policy, tokenizer, work.out, self.save_dtype)
