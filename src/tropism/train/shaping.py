"""What an online method learns from: the judge's score, shaped.

    reward = clip(score / running standard deviation, ± clip)  -  missing_stop * [never stopped]
             -  length_cost * tokens beyond length_free

A completion that the judge could not score stays unscored: no penalty makes a reward of it. Its tokens are those that the
policy chose: what a tool said costs nothing.
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
    """`scale` divides by the standard deviation of all scores so far (the mean stays, it is the baseline's affair), the
    rewards of steps too; `clip` 0 clips nothing, and never those. Penalties are in reward units, after scaling."""

    scale: bool = False
    clip: Annotated[float, Ge(0)] = 0.0
    missing_stop: Annotated[float, Ge(0)] = 1.0
    length_cost: Annotated[float, Ge(0)] = 0.0  # per token
    length_free: Annotated[int, Ge(0)] = 0  # tokens

    def __call__(self, batch: Batch, seen: Moments) -> Batch:
        """The batch with its rewards shaped; its own scores are among those `seen`."""
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
    """Count, mean and summed squared deviation of all scores so far: plain numbers, so a checkpoint holds them."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, scores: Iterable[float | None]) -> Moments:
        """With more scores; None is none (Chan's formula for joining two samples)."""
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
