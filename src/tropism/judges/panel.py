"""Several judges as one: their scores are standardised and weighted, and disagreement lowers the result.

    z_i   = (score_i - mean_i) / std_i        mean and std of member i over the completions of `calibrated_on`
    score = m - pessimism * sqrt(sum_i p_i (z_i - m)^2),    m = sum_i p_i z_i,    p_i = weight_i / sum of weights

Members that measure different things (a reward model, a verifier) give a combined reward. Reward models that differ
only in their seed are an ensemble, and `pessimism` gives a lower confidence bound (arXiv 2310.02743 subtracts the
variance; a standard deviation has the same unit as the score). The mean score of the completions in `calibrated_on`,
usually of the SFT model, is 0. If members disagree, the standard deviation of `m` is below 1; we do not rescale it to
1, which would amplify noise.

A reward for a step inside an answer, in the units of its member's scores, counts p_i / std_i times; those of several
members for the same step add up. The discount is for the scores alone.

If a member abstains, the panel abstains. Its scores have an interval scale if those of all members do. Left out:
weights that change during training, and negative weights (a verifier can change its own sign).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from annotated_types import Ge, Gt

from tropism.asking.judge import asked
from tropism.errors import TropismError
from tropism.protocols import Judge
from tropism.store.groups import read_groups
from tropism.types import Group, GroupsRef, Judgment, Step

__all__ = ["Panel"]


@dataclass(frozen=True)
class Member:
    """A judge and its weight among the others."""

    judge: Judge
    weight: Annotated[float, Gt(0)] = 1.0


@dataclass(frozen=True)
class Panel:
    """`calibrated_on` names groups with completions, such as a collect stage; at most `calibration_groups` of them,
    spread evenly, are judged once to learn each member's mean and standard deviation."""

    members: tuple[Member, ...]
    calibrated_on: GroupsRef
    pessimism: Annotated[float, Ge(0)] = 0.0
    calibration_groups: Annotated[int, Ge(1)] = 256

    def __post_init__(self) -> None:
        if not self.members:
            raise TropismError("a panel has no members: give members = [{ judge = { kind = … } }, …]")

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        scales = self._scales
        said = [asked(member.judge, groups) for member in self.members]
        return [self._combined(judged, scales) for judged in zip(*said)]

    def _combined(self, judged: Sequence[Judgment], scales: Sequence[tuple[float, float]]) -> Judgment:
        """The judgment of a group, computed from those of the members."""
        scale = "interval" if all(j.scale == "interval" for j in judged) else "ordinal"
        scores = tuple(self._score(of_one, scales) for of_one in zip(*(j.scores for j in judged)))
        said = zip(*(j.steps or (None,) * len(scores) for j in judged))
        steps = tuple(None if score is None else self._steps(s, scales) for score, s in zip(scores, said))
        tokens = sum(j.tokens for j in judged)
        return Judgment("panel@1", scores, scale, tokens=tokens, steps=steps if any(steps) else None)

    def _steps(
        self, said: Sequence[tuple[Step, ...] | None], scales: Sequence[tuple[float, float]]
    ) -> tuple[Step, ...] | None:
        """The step rewards of a completion, computed from those of the members; None if there are none."""
        rewards: dict[int, float] = {}
        for member, steps, (_, std) in zip(self.members, said, scales):
            for step in steps or ():
                rewards[step.end] = rewards.get(step.end, 0.0) + member.weight * step.reward / std
        total = sum(member.weight for member in self.members)
        return tuple(Step(end, reward / total) for end, reward in sorted(rewards.items())) or None

    def _score(self, scores: Sequence[float | None], scales: Sequence[tuple[float, float]]) -> float | None:
        """The score of a completion, computed from those of the members."""
        known = [s for s in scores if s is not None]
        if len(known) < len(scores):
            return None
        z = [(s - mean) / std for s, (mean, std) in zip(known, scales)]
        weights = [member.weight for member in self.members]
        m = sum(w * x for w, x in zip(weights, z)) / sum(weights)
        variance = sum(w * (x - m) ** 2 for w, x in zip(weights, z)) / sum(weights)
        return m - self.pessimism * math.sqrt(variance)

    @cached_property
    def _scales(self) -> list[tuple[float, float]]:
        """Each member's (mean, standard deviation) over the calibration groups; measured once."""
        found = [g for g in read_groups(self.calibrated_on) if g.completions]
        count = min(len(found), self.calibration_groups)
        groups = [dataclasses.replace(found[i * len(found) // count], judgments=()) for i in range(count)]
        scales = []
        for number, member in enumerate(self.members, start=1):
            scores = [s for j in asked(member.judge, groups) for s in j.scores if s is not None]
            spread = statistics.pstdev(scores) if scores else 0.0
            if not spread > 1e-9:
                said = "the same score to every completion" if scores else "no score to any completion"
                raise TropismError(
                    f"member {number} of the panel ({type(member.judge).__name__}) gives {said} of {self.calibrated_on}, "
                    "so its scale is unknown: drop it, or set calibrated_on to groups that it tells apart"
                )
            scales.append((statistics.fmean(scores), spread))
        return scales
