"""Looks: evaluates a policy during training on prompts that it never learns from (reward, truth, KL, tokens spent).

Every method that changes a policy is evaluated in the same way, so that methods can be compared at equal KL and at
equal tokens, for each prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tropism.engines.local import Local
from tropism.errors import TropismError
from tropism.measures.kl_to import kl_by_prompt
from tropism.protocols import Algorithm, EngineSpec, Format, Judge
from tropism.stages._fit import Data, Place, train
from tropism.stages._takes import check_engine
from tropism.store.work import Work
from tropism.tensors.batch import Batch
from tropism.train.loop import Learner
from tropism.train.rollouts import judgments, rollouts, scores
from tropism.types import Group, SamplingParams

__all__ = ["Probe"]


@dataclass(frozen=True)
class Probe:
    """`judge` is the learned reward, `truth` a judge that nothing is trained on. There is a look whenever `every` more
    tokens have been spent, and at the end. The random numbers are the same for every method and seed."""

    prompts: Format
    judge: Judge
    truth: Judge | None = None
    every: Annotated[int, Ge(1)] = 100_000  # tokens
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(n=4, max_tokens=48))
    engine: EngineSpec = Local()

    def __post_init__(self) -> None:
        if self.sampling.temperature == 0:
            raise TropismError("probe.sampling.temperature = 0 is greedy, which has no KL: use a number above 0")
        check_engine("probe", self.engine)

    def due(self, before: int, after: int) -> bool:
        """Whether the tokens spent went past a multiple of `every`."""
        return before // self.every != after // self.every

    def look(
        self, policy: PreTrainedModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: int
    ) -> dict[str, Any]:
        """A line for the metrics: means, and under `by_prompt` the mean of each prompt's completions."""
        asked = list(self.prompts.groups())
        if not asked:
            raise TropismError("probe.prompts is empty: name a file with at least one record")
        groups = rollouts(asked, self.engine.open(policy, tokenizer, ""), self.judge, self.sampling)
        found = {"reward": _means(groups), "kl": kl_by_prompt(groups, reference, tokenizer, self.sampling)}
        if self.truth is not None:
            judged = [dataclasses.replace(g, judgments=(j,)) for g, j in zip(groups, judgments(self.truth, groups))]
            found["truth"] = _means(judged)
        known = {name: [x for x in by_prompt if x is not None] for name, by_prompt in found.items()}
        means = {name: _mean(row) for name, row in known.items() if row}
        completions = [c for g in groups for c in g.completions]
        means["stop_rate"] = sum(c.finish_reason == "stop" for c in completions) / len(completions)
        means["tokens"] = sum(len(c.tokens or ()) for c in completions) / len(completions)
        rounded = {k: [None if x is None else round(x, 4) for x in v] for k, v in found.items()}
        return {"spent": tokens, **{f"probe_{k}": v for k, v in means.items()}, "by_prompt": rounded}


@dataclass(frozen=True)
class Looks:
    """The looks of a probe at one policy in training; none without a probe. The KL is to `reference`, which a probe
    needs."""

    probe: Probe | None
    policy: PreTrainedModel
    reference: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase

    def now(self, spent: int) -> dict[str, Any]:
        """A line for the metrics, empty without a probe."""
        if self.probe is None or self.reference is None:
            return {}
        return self.probe.look(self.policy, self.reference, self.tokenizer, spent)

    def due(self, before: int, after: int) -> dict[str, Any]:
        """The same if a look is due between these two sums of tokens spent."""
        return self.now(after) if self.probe and self.probe.due(before, after) else {}


def train_probed(
    looks: Looks,
    work: Work,
    learner: Learner,
    algorithm: Algorithm,
    data: Data,
    place: Place,
    prepare: Callable[[Batch], Batch] = lambda batch: batch,
) -> None:
    """`stages/_fit.py:train`, with a look before the first update, whenever one is due, and at the end."""
    if looks.probe and not learner.done:
        work.log(step=0, **looks.now(place.spent))
    train(work, learner, algorithm, data, place, prepare, looks.due)
    if looks.probe:
        work.log(step=data.steps, **looks.now(place.spent))


def _means(groups: Sequence[Group]) -> list[float | None]:
    """For each group the mean of the newest judgment's scores; None if it scored nothing."""
    rows = [[s for s in scores(g) if s is not None] for g in groups]
    return [_mean(row) if row else None for row in rows]


def _mean(x: Sequence[float]) -> float:
    return sum(x) / len(x)
