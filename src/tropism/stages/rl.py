"""Stage: reinforcement learning, held close to the reference by a KL penalty; blind to which algorithm it runs.

A round samples completions from the policy, has them judged, gives credit, and makes `epochs` passes of `minibatches`
updates over them. `truth` is a judge that is looked at and never trained on, so that reward hacking shows: the reward
goes up and the truth does not.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from transformers import PreTrainedModel

from tropism.algorithms.ppo import PPO
from tropism.engines.local import LocalEngine
from tropism.models.store import context_of, load_lm, load_scalar, save
from tropism.stages._train import PASS_TOKENS, fitting, question, read
from tropism.store.run import Work
from tropism.tensors.batch import Batch, take_rows, total
from tropism.text import tokenizer
from tropism.train.loop import Learner, NotFinite, values
from tropism.train.optim import Optim
from tropism.train.order import Order
from tropism.train.rollouts import annotate, experience, judgments, rollouts, round_metrics
from tropism.types import Adaptive, Algorithm, Format, Group, Judge, ModelRef, SamplingParams, TropismError

__all__ = ["RL"]


@dataclass(frozen=True)
class RL:
    """The reference is the policy before the first round. `critic` is where the critic's weights begin (by default
    the policy's); for `critic_warmup` rounds only the critic is trained. `sampling.n` completions a prompt."""

    policy: ModelRef
    prompts: Format
    judge: Judge
    algorithm: Algorithm = PPO()
    critic: ModelRef | None = None
    truth: Judge | None = None
    rounds: int = 60
    prompts_per_round: int = 32
    sampling: SamplingParams = SamplingParams(n=4, max_tokens=48)
    too_long: Literal["stop", "skip"] = "stop"
    epochs: int = 1
    minibatches: int = 1
    critic_lr: float = 0.0
    critic_warmup: int = 0
    pass_tokens: int = PASS_TOKENS  # in one forward pass: lower it if memory is short
    optim: Optim = field(default_factory=lambda: Optim(lr=2e-4, schedule="constant"))

    version: ClassVar[int] = 1
    makes: ClassVar[Literal["model"]] = "model"

    def __post_init__(self) -> None:
        if self.sampling.temperature == 0:
            raise TropismError("rl.sampling.temperature = 0 is greedy, which explores nothing: use a number above 0")

    def run(self, work: Work) -> None:
        words = tokenizer.load(self.policy)
        models = {"policy": load_lm(self.policy)}
        context = context_of(models["policy"])
        make = functools.partial(question, words=words, context=context, max_tokens=self.sampling.max_tokens)
        asked = [g for g, _ in fitting(read(self.prompts, "prompts", work), make, self.too_long, work)]
        if "values_BT" in self.algorithm.predicts:
            models["critic"] = load_scalar(self.critic or self.policy)
        reference = load_lm(self.policy)
        steps = self.rounds * self.epochs * self.minibatches
        rates = {"critic": self.critic_lr or self.optim.lr}
        learner = Learner(models, self.optim, steps, rates, self.pass_tokens, self.sampling)
        state = _State(self.algorithm, Order(len(asked), work.seed), words, reference)
        if found := work.restore():
            state.load(learner.restore(found[1]))
        with work.progress("rounds", self.rounds) as bar:
            bar.advance(state.round, rated=0)
            engine = LocalEngine(models["policy"], words)
            while state.round < self.rounds:
                engine.load(None, f"{work.fingerprint}@{state.round}")
                numbers, tokens = self._round(work, learner, state, asked, engine)
                bar.advance(1, rated=tokens)
                bar.show(reward=numbers["reward"], kl=numbers.get("kl", 0.0))
                work.log(round=state.round, **numbers)
                if work.due() and state.round < self.rounds:
                    work.save(state.round, lambda folder: learner.save(folder, **state.save()))
        work.facts |= {
            "rounds": self.rounds,
            "completions": self.rounds * self.prompts_per_round * self.sampling.n,
        }
        save(models["policy"], words, work.out)

    def _round(
        self, work: Work, learner: Learner, state: _State, asked: list[Group], engine: LocalEngine
    ) -> tuple[dict[str, float], int]:
        """Samples, judges, gives credit, updates. Numbers of the round, and how many tokens were sampled."""
        policy = learner.models["policy"]
        groups = [asked[i] for i in state.order.take(self.prompts_per_round)]
        seeded = dataclasses.replace(self.sampling, seed=(work.seed << 20) + state.round)
        groups = rollouts(groups, engine, self.judge, seeded)
        batch = experience(groups, state.words, policy, context_of(policy))
        if not batch.need("scored_N").any():
            raise TropismError(f"the judge scored no completion of round {state.round + 1}: name a judge that can")
        batch = annotate(
            batch,
            state.algorithm.needs,
            state.reference,
            learner.models.get("critic"),
            self.sampling,
            self.pass_tokens,
        )
        batch = state.algorithm.credit(batch)
        rng = np.random.default_rng([work.seed, state.round])
        frozen = "policy" if state.round < self.critic_warmup else ""
        updates = []
        for piece in self._pieces(batch, rng):
            try:
                updates.append(learner.update(state.algorithm, piece, frozen))
            except NotFinite as error:
                raise error.with_checkpoint(work.last_checkpoint()) from None
        numbers = {**values(round_metrics(batch)), **values(total(updates))}
        if self.truth is not None:
            scores = [s for j in judgments(self.truth, groups) for s in j.scores if s is not None]
            numbers["truth"] = sum(scores) / len(scores) if scores else float("nan")
        state.round += 1
        if isinstance(state.algorithm, Adaptive):
            state.algorithm = state.algorithm.adapt(numbers["kl"], batch.n)
            numbers["kl_coefficient"] = state.algorithm.kl  # type: ignore[attr-defined]
        return numbers, sum(len(c.tokens or ()) for g in groups for c in g.completions)

    def _pieces(self, batch: Batch, rng: np.random.Generator) -> list[Batch]:
        """The rows of a round, shuffled anew for each epoch, in `minibatches` pieces."""
        rows = len(batch.tokens_BT)
        pieces = []
        for _ in range(self.epochs):
            parts = np.array_split(rng.permutation(rows), min(self.minibatches, rows))
            pieces += [take_rows(batch, sorted(part.tolist())) for part in parts]
        return pieces


@dataclass
class _State:
    """What a round reads beside the models; `save` and `load` carry it through a checkpoint."""

    algorithm: Any
    order: Order
    words: Any
    reference: PreTrainedModel
    round: int = 0

    def save(self) -> dict[str, Any]:
        fields = {f.name: getattr(self.algorithm, f.name) for f in dataclasses.fields(self.algorithm)}
        return {"round": self.round, "position": self.order.position, "algorithm": fields}

    def load(self, saved: dict[str, Any]) -> None:
        self.round, self.order.position = saved["round"], saved["position"]
        self.algorithm = dataclasses.replace(self.algorithm, **saved["algorithm"])
