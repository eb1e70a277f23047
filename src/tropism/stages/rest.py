"""Stage: reinforced self-training (ReST, arXiv 2308.08998). Grow samples and scores; Improve filters and trains
offline.

    for grow:                                  samples of the newest policy, scored once, kept on disk
        for threshold in thresholds, rising:   F = {samples whose score is above the threshold}
            train on F with any loss: nll (the paper's BC), gold, awr, vmpo, or dpo on kept against dropped

A threshold is a score (`by = "value"`), or the share of samples to leave out, over all prompts (`by = "quantile"`) or
for each prompt separately (`by = "prompt"`, because a reward model's scores may not be comparable across prompts). A
share means the quantile of the scores, and samples above it survive; 0 leaves out only the worst. If so many samples
share the best score that it is the quantile, they survive. If all scores are equal, none survives unless they are above
`floor`. With a `floor` every survivor has to be above it (for example 0.5 for rewards of 0 and 1: then all samples of a
prompt that is always solved are kept, and none of one that is never solved).

Copies of a survivor are dropped, a prompt has at most `per_prompt` survivors, the best first, and prompts without one
are counted. A loss with weights by score (awr, vmpo) compares a survivor with the mean of all samples of its prompt.
Each Improve step continues from the previous one, with `decay` times its learning rate. The reference of a loss that
needs one is the stage's first policy.

Scored samples are kept in the run folder's `samples`, under a name that depends on policy, judge, prompts and sampling:
a different threshold or loss, or a second run, uses the same samples again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Interval
from transformers import PreTrainedModel

from tropism.algorithms.nll import NLL
from tropism.engines.local import Local
from tropism.errors import TropismError
from tropism.models.folder import context_of, save
from tropism.models.weights import Weights
from tropism.needs import GROUP_TOKENS, Earlier, Needs, count, training
from tropism.protocols import Algorithm, EngineSpec, Format, Judge
from tropism.stages._fit import PASS_TOKENS, Data, Place, tell, train
from tropism.stages._overlap import learns, probed
from tropism.stages._probe import Looks, Probe
from tropism.stages._read import fitting, read
from tropism.stages._samples import name_of, read_again, weights_of
from tropism.stages._survivors import filtered, survivors
from tropism.stages._takes import check, check_several
from tropism.stages.offline import filled
from tropism.store import files
from tropism.store.groups import GROUPS_FILE, read_groups, write_groups
from tropism.store.work import Work
from tropism.tensors.encode import question, tree
from tropism.tensors.tree import Tree
from tropism.text.tokenizer import load_tokenizer
from tropism.train import cost
from tropism.train.loop import Learner
from tropism.train.optim import Optim
from tropism.train.rollouts import judgments, needed, repeats, rollouts, scores
from tropism.types import Group, PolicyRef, SamplingParams

__all__ = ["ReST"]

AT_ONCE = 256  # prompts in one call of the engine
_FILLS = ("reward_N", "rank_N", "old_logprobs_BT", "ref_logprobs_BT", "baseline_N")


@dataclass(frozen=True)
class ReST(Weights):
    """`steps` is the number of updates in an Improve step. `truth` is only measured, never trained on."""

    policy: PolicyRef
    prompts: Format
    judge: Judge
    algorithm: Algorithm | tuple[Algorithm, ...] = NLL()
    truth: Judge | None = None
    grows: Annotated[int, Ge(1)] = 1
    thresholds: tuple[Annotated[float, Interval()], ...] = (0.5, 0.7, 0.9)
    by: Literal["value", "quantile", "prompt"] = "prompt"
    floor: Annotated[float, Interval()] | None = None  # judge's units
    per_prompt: Annotated[int, Ge(0)] = 0  # survivors; 0 = all
    sampling: SamplingParams = SamplingParams(n=8, max_tokens=48)
    steps: Annotated[int, Ge(1)] = 50
    groups_per_step: Annotated[int, Ge(1)] = 32
    decay: Annotated[float, Interval(gt=0, le=1)] = 0.7
    too_long: Literal["stop", "skip"] = "stop"
    pass_tokens: Annotated[int, Ge(0)] = PASS_TOKENS  # in one forward pass: lower it if memory is short
    probe: Probe | None = None
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-4))
    engine: EngineSpec = Local()

    version: ClassVar[int] = 2
    makes: ClassVar[Literal["policy"]] = "policy"

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.thresholds, self.thresholds[1:]))
        if not self.thresholds or not rising:
            raise TropismError(f"rest.thresholds = {list(self.thresholds)} must rise: give at least one")
        if self.by != "value" and not all(0 <= t < 1 for t in self.thresholds):
            raise TropismError('rest.thresholds are shares from 0 to below 1 unless by = "value": fix them')
        if self.by == "value" and self.floor is not None:
            raise TropismError('rest.floor is for shares: with by = "value" the thresholds are scores, so leave it out')
        if self.sampling.temperature == 0:
            raise TropismError(
                "rest.sampling.temperature = 0 is greedy, so all samples are equal: use a number above 0"
            )
        if self.by == "prompt" and self.sampling.n == 1 and self.floor is None:
            raise TropismError(
                'rest.sampling.n = 1 leaves by = "prompt" nothing to compare: use 2 or more, or another `by`'
            )
        if len(self.losses) != len(self.thresholds):
            raise TropismError(
                f"rest.algorithm has {len(self.losses)} losses for {len(self.thresholds)} thresholds: "
                "give one for all, or one for each"
            )
        for loss in self.losses:
            instead = "use one that learns from kept samples, such as nll or gold"
            check("rest", loss, _FILLS, ("policy",), instead)
            check_several("rest", loss, self.sampling.n)

    @property
    def losses(self) -> tuple[Algorithm, ...]:
        """The loss of each Improve step."""
        return self.algorithm if isinstance(self.algorithm, tuple) else (self.algorithm,) * len(self.thresholds)

    def _refers(self) -> bool:
        """Whether a loss, or a probe for its KL, asks for the policy before the first update."""
        return self.probe is not None or any("ref_logprobs_BT" in needed(loss) for loss in self.losses)

    def needs(self, earlier: Earlier) -> Needs:
        updates, at_once = self.grows * len(self.thresholds) * self.steps, GROUP_TOKENS * self.groups_per_step
        grown = self.grows * count(self.prompts) * self.sampling.n * self.sampling.max_tokens
        return training(
            earlier.model(self.policy),
            updates=updates,
            tokens=updates * at_once + grown,
            at_once=at_once,
            pass_tokens=self.pass_tokens,
            group=GROUP_TOKENS,
            keys=("pass_tokens", "policy"),
            frozen=1 + self._refers(),
        )

    def run(self, work: Work) -> None:
        tokenizer = load_tokenizer(self.policy)
        policy = self.train_lm(self.policy, work.seed)
        reference = self.freeze_lm(self.policy) if self._refers() else None
        tell(work, policy)
        make = functools.partial(
            question, tokenizer=tokenizer, context=context_of(policy), max_tokens=self.sampling.max_tokens
        )
        asked = fitting(read(self.prompts, "prompts", work), make, self.too_long, work, self.prompts)
        learns(work, [g for g, _ in asked])
        probed(work, self)
        found = work.restore()
        first = found[0] // self.steps if found else 0
        place, groups = Place(), []
        for part in range(self.grows * len(self.thresholds)):
            grow, number = divmod(part, len(self.thresholds))
            if part < first:
                continue
            rate = dataclasses.replace(self.optim, lr=self.optim.lr * self.decay**number)
            learner = Learner({"policy": policy}, rate, self.steps, pass_tokens=self.pass_tokens, layout=self.layout)
            place.before, place.position = part * self.steps, 0
            if found and part == first:
                more = learner.restore(found[1])
                place.position, place.tokens, place.spent = (more.pop(n) for n in ("position", "tokens", "spent"))
                place.more = more
                groups = self._with_truth(read_again(work.folder.parent / place.more["samples"], work))
            elif number == 0:
                if part == 0 and self.probe:
                    work.log(step=0, **Looks(self.probe, policy, reference, tokenizer).now(0))
                groups = self._grow(work, policy, tokenizer, asked, grow, place)
            self._improve(work, learner, groups, grow, number, place, (policy, reference, tokenizer))
        work.facts |= {
            "tokens_generated": place.more["generated"],
            "tokens_trained": place.tokens,
            "tokens_spent": place.spent,
        }
        save(policy, tokenizer, work.out, self.save_dtype)

    def _grow(
        self,
        work: Work,
        policy: PreTrainedModel,
        tokenizer: Any,
        asked: Sequence[tuple[Group, Tree]],
        grow: int,
        place: Place,
    ) -> list[Group]:
        """The scored samples of the current policy, sampled now or read from an earlier run, with the truth."""
        sampling = dataclasses.replace(self.sampling, seed=self.sampling.seed + (work.seed << 8) + grow)
        name = name_of(weights_of(policy), self.judge, asked, sampling, self.engine, self.version)
        path = work.folder.parent / "samples" / name
        reused = work.peers.once(lambda: files.sealed(path) is not None)
        if not reused:
            engine = self.engine.open(policy, tokenizer, f"{work.fingerprint}@{grow}")
            prompts, groups = [g for g, _ in asked], []
            times = [*repeats(prompts)]
            with work.progress(f"grow {grow + 1}", len(asked), "prompts") as bar:
                for i in range(0, len(prompts), AT_ONCE):
                    some = slice(i, i + AT_ONCE)
                    groups += rollouts(prompts[some], engine, self.judge, sampling, times[some])
                    bar.advance(len(prompts[some]))
            work.peers.once(lambda: files.write_folder(path, lambda to: write_groups(groups, to / GROUPS_FILE), {}))
        groups = list(read_groups(path))
        if all(s is None for g in groups for s in scores(g)):
            raise TropismError(
                f"the judge gave no score to any completion of grow {grow + 1}: name a judge that can score them"
            )
        generated = sum(len(c.tokens or ()) for g in groups for c in g.completions)
        place.more = {"samples": f"samples/{name}", "generated": place.more.get("generated", 0) + generated}
        for group, (_, prompt) in zip(groups, asked):
            place.spent += cost.sampling(prompt.size, group.completions, group.judgments[-1])
        groups = self._with_truth(groups)
        everything = [list(range(len(g.completions))) for g in groups]
        work.log(grow=grow + 1, reused=reused, generated=generated, **self._seen(groups, everything))
        return groups

    def _improve(
        self,
        work: Work,
        learner: Learner,
        groups: list[Group],
        grow: int,
        number: int,
        place: Place,
        models: tuple[PreTrainedModel, PreTrainedModel | None, Any],
    ) -> None:
        policy, reference, tokenizer = models
        threshold, algorithm = self.thresholds[number], self.losses[number]
        kept = survivors(groups, threshold, self.by, self.per_prompt, self.floor)
        alive = [g for g, k in zip(groups, kept) if k]
        if not alive:
            raise TropismError(
                f"no sample of grow {grow + 1} is above the threshold {threshold}: lower rest.thresholds, or if all "
                "scores are equal set rest.floor to say which are good"
            )
        trees = [
            filtered(g, k, tree(g, tokenizer, context_of(policy)), "rank_N" in algorithm.needs)
            for g, k in zip(groups, kept)
            if k
        ]
        fill = functools.partial(
            filled, algorithm=algorithm, reference=reference, policy=policy, pass_tokens=self.pass_tokens
        )
        looks = Looks(self.probe, policy, reference, tokenizer)
        data = Data(trees, self.steps, groups=self.groups_per_step)
        train(work, learner, algorithm, data, place, fill, looks.due)
        line = {
            "grow": grow + 1,
            "improve": number + 1,
            "threshold": threshold,
            "kept_share": sum(map(len, kept)) / sum(len(g.completions) for g in groups),
            "prompts_without": len(groups) - len(alive),
            **self._seen(groups, kept),
        }
        work.log(step=place.before + self.steps, **line, **looks.now(place.spent))

    def _with_truth(self, groups: list[Group]) -> list[Group]:
        """The groups with the truth's judgment before the judge's, so that the truth is asked once a Grow."""
        if self.truth is None:
            return groups
        return [
            dataclasses.replace(g, judgments=(j, *g.judgments)) for g, j in zip(groups, judgments(self.truth, groups))
        ]

    def _seen(self, groups: Sequence[Group], kept: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Mean score, mean truth and a histogram of the scores of these completions, for the metrics."""
        rows = [s for g, k in zip(groups, kept) for row in [scores(g)] for i in k if (s := row[i]) is not None]
        counts, edges = np.histogram(rows, bins=20)
        line: dict[str, Any] = {
            "reward": float(np.mean(rows)),
            "histogram": {"counts": counts.tolist(), "edges": [round(float(e), 4) for e in edges]},
        }
        if self.truth is not None:
            said = [s for g, k in zip(groups, kept) for i in k if (s := g.judgments[0].scores[i]) is not None]
            line["truth"] = float(np.mean(said)) if said else None
        return line
