"""The reward of an online method: the judge's score after shaping.

    reward = clip(score / running standard deviation, ± clip)  -  missing_stop * [never stopped]
             -  length_cost * tokens beyond length_free

A completion without a score stays without a reward; penalties do not apply to it. Only tokens that the policy chose are
counted, not the output of tools.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge

from tropism.tensors.batch import Batch
from tropism.tensors.index import length_N

__all__ = ["Shaping"]


@dataclass(frozen=True)
class Shaping:
    """`scale` divides scores and step rewards by the standard deviation of all scores so far. The mean is not
    subtracted; that is done by the baseline. `clip` 0 means no clipping; step rewards are never clipped. Penalties are
    in reward units, after scaling."""

    scale: bool = False
    clip: Annotated[float, Ge(0)] = 0.0
    missing_stop: Annotated[float, Ge(0)] = 1.0
    length_cost: Annotated[float, Ge(0)] = 0.0  # per token
    length_free: Annotated[int, Ge(0)] = 0  # tokens

    def __call__(self, batch: Batch, seen: Moments) -> Batch:
        """The batch with shaped rewards; `seen` already includes its scores."""
        scored_N, reward_N = batch.need("scored_N"), batch.need("reward_N")
        if self.scale and seen.std:
            reward_N = reward_N / seen.std
            if batch.step_reward_BT is not None:
                batch = batch.replace(step_reward_BT=batch.step_reward_BT / seen.std)
        if self.clip:
            reward_N = reward_N.clamp(-self.clip, self.clip)
        reward_N = reward_N - self.missing_stop * ~batch.ended_N
        reward_N = reward_N - self.length_cost * (length_N(batch) - self.length_free).clamp(min=0)
        return batch.replace(reward_N=torch.where(scored_N, reward_N, 0.0))


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of all scores so far: plain numbers for the checkpoint."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, scores: Iterable[float | None]) -> Moments:
        """The moments with more scores; None is ignored (Chan's formula for joining two samples)."""
        x = torch.tensor([s for s in scores if s is not None], dtype=torch.float64)
        more = len(x)
        if not more:
            return self
        mean, count = float(x.mean()), self.count + more
        apart = mean - self.mean
        squares = self.squares + float(((x - mean) ** 2).sum()) + apart**2 * self.count * more / count
        return Moments(count, self.mean + apart * more / count, squares)

    @property
    def std(self) -> float:
        """0 until two scores differ."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0
