"""Stage: reinforcement learning with a KL penalty that keeps the policy near the reference, for any algorithm.

A round samples completions from the policy, judges them, computes the credit, and makes `epochs` passes of
`minibatches` updates over them. `truth` is a judge that is only measured and never trained on, so that reward hacking
can be seen: the reward rises and the truth does not. If the algorithm learns nothing from some groups (all rewards
equal), other prompts are sampled instead. The reward, truth, KL and stop rate of a round are over all samples;
`teaching` is the share of the groups that are trained on, `teaching_reward` their reward.

An algorithm with a limit on costs (`ppo_lagrangian`) has a second judge, `cost`, whose scores are the better the lower. The
metrics `reward` and `cost` are the two judges' means, `objective` that of what is trained on, `multiplier` a cost's weight.

An algorithm that learns from rankings (online DPO, arXiv 2402.04792) gets the ranking of the shaped rewards, so every
judge can be used, an ordinal one too: its scores are minus the ranks, so a penalty of 1 is one rank.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from transformers import PreTrainedModel

from tropism.algorithms.ppo import PPO
from tropism.engines.local import Local
from tropism.errors import TropismError
from tropism.models.folder import context_of
from tropism.models.layout import layout
from tropism.models.weights import Weights
from tropism.needs import Earlier, Needs, training
from tropism.protocols import Adaptive, Algorithm, Constrained, Engine, EngineSpec, Format, Judge, Selective
from tropism.stages._costs import both, charged
from tropism.stages._fit import PASS_TOKENS, tell
from tropism.stages._mix import Mix, Mixing
from tropism.stages._overlap import learns, probed
from tropism.stages._read import fitting, read
from tropism.stages._rounds import State
from tropism.stages._takes import check, check_cost, check_engine, check_several
from tropism.stages._watched import Watched
from tropism.store.fingerprint import ADDED
from tropism.store.work import Work
from tropism.tensors.batch import Batch
from tropism.tensors.credit import ranked
from tropism.tensors.encode import question
from tropism.tensors.ratio import total
from tropism.tensors.rows import passes, take_rows
from tropism.tensors.tree import Tree
from tropism.text.tokenizer import load_tokenizer
from tropism.train import cost
from tropism.train.loop import Learner, NotFinite, values
from tropism.train.mismatch import compared
from tropism.train.optim import Optim
from tropism.train.order import Order
from tropism.train.rollouts import annotate, critic_metrics, experience, judgments, needed, rollouts, round_metrics
from tropism.train.shaping import Shaping
from tropism.types import Group, ModelRef, PolicyRef, SamplingParams

__all__ = ["RL"]

_Rollout = tuple[Group, Tree]
_FILLS = ("reward_N", "rank_N", "old_logprobs_BT", "ref_logprobs_BT", "values_BT", "others", "baseline_N")


@dataclass(frozen=True)
class RL(Weights, Watched):
    """The reference is the policy before the first round; it is kept only if the algorithm, a probe or `truth` asks for
    it, and so is the metric `kl`. `critic` gives the critic's initial weights (by default the policy's); for
    `critic_warmup` rounds only the critic is trained. `sampling.n` is the number of completions for each prompt. `budget`
    ends the stage before all `rounds`, when so many tokens have gone through models (train/cost.py; 0: never). `refills`
    limits how often a round replaces groups from which nothing is learned. `mix` adds pretraining to every update. `cost`
    is for an algorithm with a limit on costs. `importance_cap` corrects a difference between engine and trainer
    (train/mismatch.py; 0: it is only measured)."""

    policy: PolicyRef
    prompts: Format
    judge: Judge
    algorithm: Algorithm = PPO()
    critic: ModelRef | None = None
    truth: Judge | None = None
    shaping: Shaping = Shaping()
    rounds: Annotated[int, Ge(1)] = 60
    budget: Annotated[int, Ge(0)] = 0
    prompts_per_round: Annotated[int, Ge(1)] = 32
    sampling: SamplingParams = SamplingParams(n=4, max_tokens=48)
    refills: Annotated[int, Ge(0)] = 2
    too_long: Literal["stop", "skip"] = "stop"
    epochs: Annotated[int, Ge(1)] = 1
    minibatches: Annotated[int, Ge(1)] = 1
    critic_lr: Annotated[float, Ge(0)] = 0.0
    critic_warmup: Annotated[int, Ge(0)] = 0
    pass_tokens: Annotated[int, Ge(0)] = PASS_TOKENS  # in one forward pass: lower it if memory is short
    optim: Optim = field(default_factory=lambda: Optim(lr=2e-4, schedule="constant"))
    engine: EngineSpec = Local()
    mix: Mix | None = field(default=None, metadata=ADDED)
    cost: Judge | None = field(default=None, metadata=ADDED)
    importance_cap: Annotated[float, Ge(0)] = field(default=0.0, metadata=ADDED)

    version: ClassVar[int] = 4
    makes: ClassVar[Literal["policy"]] = "policy"

    def __post_init__(self) -> None:
        if self.sampling.temperature == 0:
            raise TropismError("rl.sampling.temperature = 0 is greedy, so all samples are equal: use a number above 0")
        instead = "use one that learns from scores of the policy's own samples, such as ppo or grpo"
        check("rl", self.algorithm, _FILLS, ("policy", "critic"), instead)
        check_cost("rl", self.algorithm, self.cost)
        self.check_watched()
        check_several("rl", self.algorithm, self.sampling.n)
        check_engine("rl", self.engine)

    def needs(self, earlier: Earlier) -> Needs:
        each = self.prompts_per_round * self.sampling.n * self.sampling.max_tokens
        passes = 2 + cost.filling(self.algorithm, sampled=True) + self.epochs * cost.updating(self.algorithm)
        spent = passes * each  # at most; one model judges
        rounds = min(self.rounds, -(-self.budget // spent)) if self.budget else self.rounds
        trained = 2 if "values_BT" in self.algorithm.predicts else 1
        mixed = self.mix.tokens * self.epochs * self.minibatches if self.mix else 0
        return training(
            earlier.model(self.policy),
            updates=rounds * self.epochs * self.minibatches,
            tokens=rounds * (each + mixed),
            at_once=each // self.minibatches,
            pass_tokens=self.pass_tokens,
            group=self.sampling.n * self.sampling.max_tokens,
            keys=("pass_tokens", "policy"),
            trained=trained,
            frozen=1 + self._refers() + (self.cost is not None),
            passes=2.0 + self._refers() + 3.0 * self.epochs * trained,
        )

    def run(self, work: Work) -> None:
        tokenizer = load_tokenizer(self.policy)
        models = {"policy": self.train_lm(self.policy, work.seed)}
        tell(work, models["policy"])
        context = context_of(models["policy"])
        make = functools.partial(question, tokenizer=tokenizer, context=context, max_tokens=self.sampling.max_tokens)
        asked = [g for g, _ in fitting(read(self.prompts, "prompts", work), make, self.too_long, work, self.prompts)]
        documents = self.mix.read(work) if self.mix else []
        learns(work, [*asked, *documents])
        probed(work, self)
        if "values_BT" in self.algorithm.predicts:
            models["critic"] = self.train_scalar(self.critic or self.policy, work.seed + 1)
        reference = self.freeze_lm(self.policy) if self._refers() else None
        steps = self.rounds * self.epochs * self.minibatches
        rates = {"critic": self.critic_lr or self.optim.lr}
        learner = Learner(models, self.optim, steps, rates, self.pass_tokens, self.sampling)
        mixing = Mixing(self.mix, documents, models["policy"], tokenizer, work.seed + 2) if self.mix else None
        state = State(self.algorithm, Order(len(asked), work.seed), tokenizer, reference, mixing)
        if found := work.restore():
            state.load(learner.restore(found[1]))
        look = functools.partial(self.look, state.looks, models["policy"], reference, tokenizer)
        if self.probe and not state.round:
            work.log(round=0, **look(0, 0))
        with work.progress("rounds", self.rounds) as bar:
            bar.advance(state.round, rated=0)
            engine = self.engine.open(models["policy"], tokenizer, f"{work.fingerprint}@{state.round}")
            engine.tell(work.note)
            while not self._over(state):
                spent, generated = state.spent, state.generated
                engine.load(None, f"{work.fingerprint}@{state.round}")
                numbers = self._round(work, learner, state, asked, engine)
                bar.advance(1, rated=state.generated - generated)
                bar.show(**{name: numbers[name] for name in ("reward", "kl") if name in numbers})
                more = {}
                if self.probe and (self._over(state) or self.probe.due(spent, state.spent)):
                    more = look(state.round, state.spent)
                work.log(round=state.round, **numbers, **more)
                if work.due() and not self._over(state):
                    work.save(state.round, lambda folder: learner.save(folder, **state.save()))
        work.facts |= {
            "rounds": state.round,
            "completions": state.completions,
            "tokens_generated": state.generated,
            "tokens_trained": state.trained,
            "tokens_spent": state.spent,
            **({"tokens_spent_on_mix": state.mixed} if self.mix else {}),
        }
        self.leave(state.looks, models["policy"], tokenizer, work, self.save_dtype)

    def _refers(self) -> bool:
        """Whether a model stays as the policy was before the first round."""
        return self.probe is not None or self.truth is not None or "ref_logprobs_BT" in needed(self.algorithm)

    def _over(self, state: State) -> bool:
        spent = self.budget > 0 and state.spent >= self.budget
        return state.round >= self.rounds or spent or "over_optimised" in state.looks

    def _round(self, work: Work, learner: Learner, state: State, asked: list[Group], engine: Engine) -> dict[str, Any]:
        """Samples, judges, computes credit, updates. Returns the metrics of all samples, then those of the updates."""
        kept, dull, made = self._sampled(work, learner, state, asked, engine)
        batches = [self._filled(part, learner, state, made) for part in (kept, dull) if part]
        if not any(batch.need("scored_N").any() for batch in batches):
            raise TropismError(
                f"the judge scored no completion of round {state.round + 1}: name a judge that can score them"
            )
        numbers: dict[str, Any] = {"layout": batches[0].layout}
        numbers |= values(total(round_metrics(batch) for batch in batches)) | self._truth(kept + dull)
        numbers |= both(g for g, _ in kept + dull) | {"objective": numbers["reward"]} if self.cost else {}
        if isinstance(self.algorithm, Selective):
            numbers["teaching"] = len(kept) / len(kept + dull)
            numbers |= values({"teaching_reward": round_metrics(batches[0])["reward"]}) if kept else {}
        batch = state.algorithm.credit(ranked(self.shaping(batches[0], state.seen)))
        numbers |= values(critic_metrics(batch))
        policy = learner.models["policy"]
        batch, apart = compared(batch, policy, self.sampling, self.pass_tokens, self.importance_cap)
        numbers |= apart
        trained = self.epochs * sum(t.size for _, t in kept or dull)
        state.trained += trained
        state.spent += trained * cost.updating(state.algorithm)
        rng = np.random.default_rng([work.seed, state.round])
        frozen = "policy" if state.round < self.critic_warmup else ""
        updates = []
        for piece in self._pieces(batch, rng):
            try:
                mixed = None if frozen else state.mix(self.layout)
                updates.append(learner.update(state.algorithm, piece, frozen, mixed))
            except NotFinite as error:
                raise error.with_checkpoint(work.last_checkpoint()) from None
        numbers |= values(total(updates))
        state.round += 1
        if isinstance(state.algorithm, Adaptive) and "kl" in numbers:
            state.algorithm = state.algorithm.adapt(numbers["kl"], sum(b.n for b in batches))
            numbers["kl_coefficient"] = state.algorithm.kl  # type: ignore[attr-defined]
        if isinstance(state.algorithm, Constrained) and not frozen:
            state.algorithm = state.algorithm.tightened(numbers["cost"])
            numbers["multiplier"] = state.algorithm.multiplier  # type: ignore[attr-defined]
        return numbers

    def _truth(self, sampled: list[_Rollout]) -> dict[str, float]:
        """The mean score of the judge `truth`, if it gave any."""
        said = judgments(self.truth, [g for g, _ in sampled]) if self.truth is not None else []
        known = [s for j in said for s in j.scores if s is not None]
        return {"truth": sum(known) / len(known)} if known else {}

    def _sampled(
        self, work: Work, learner: Learner, state: State, asked: list[Group], engine: Engine
    ) -> tuple[list[_Rollout], list[_Rollout], Batch | None]:
        """The judged groups of a round from which the algorithm learns something, and the others; the batch of the
        former, if there are no others."""
        policy = learner.models["policy"]
        kept: list[_Rollout] = []
        dull: list[_Rollout] = []
        made = None
        for again in range(1 + self.refills):
            taken = [asked[i] for i in state.order.take(self.prompts_per_round - len(kept))]
            seed = self.sampling.seed + (work.seed << 20) + state.round + (again << 52)
            groups = rollouts(taken, engine, self.judge, dataclasses.replace(self.sampling, seed=seed))
            groups = charged(groups, state.algorithm, self.cost) if self.cost else groups
            trees = experience(groups, state.tokenizer, context_of(policy))
            state.count(groups, trees)
            made = self._laid(trees, policy)
            for group, tree, teaches in zip(groups, trees, self._teaching(state, made)):
                (kept if teaches else dull).append((group, tree))
            if len(kept) == self.prompts_per_round:
                break
        return kept, dull, None if dull else made

    def _laid(self, trees: list[Tree], policy: PreTrainedModel) -> Batch:
        return layout(trees, policy, force=self.layout, most=self.pass_tokens)

    def _teaching(self, state: State, batch: Batch) -> list[bool]:
        """For each group, whether its rewards, after shaping, can change the policy."""
        if not isinstance(state.algorithm, Selective):
            return [True] * len(batch.ids)
        return state.algorithm.teaches(self.shaping(batch, state.seen)).tolist()

    def _filled(self, part: list[_Rollout], learner: Learner, state: State, made: Batch | None) -> Batch:
        """A batch (`made`, if it has been) with the fields that the algorithm needs; its rewards are the judge's scores."""
        trees = [t for _, t in part]
        state.spent += sum(t.size for t in trees) * cost.filling(state.algorithm, sampled=True)
        measured = ("ref_logprobs_BT",) if self.truth is not None else ()  # reward and truth are plotted over the KL
        return annotate(
            self._laid(trees, learner.models["policy"]) if made is None else made,
            (*needed(state.algorithm), *measured),
            state.reference,
            learner.models.get("critic"),
            self.sampling,
            self.pass_tokens,
        )

    def _pieces(self, batch: Batch, rng: np.random.Generator) -> list[Batch]:
        """The rows of a round, shuffled again for each epoch, in `minibatches` pieces of whole groups."""
        units = passes(batch, 1)
        pieces = []
        for _ in range(self.epochs):
            parts = np.array_split(rng.permutation(len(units)), min(self.minibatches, len(units)))
            pieces += [take_rows(batch, sorted(row for unit in part for row in units[unit])) for part in parts]
        return pieces
