"""Figures with their 95 % intervals. The unit that is resampled is the prompt: its completions are not independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

RESAMPLES = 2000
Z = 1.959963984540054  # the normal distribution's 97.5 % point


class Figure(TypedDict):
    """A measured value and its 95 % interval."""

    value: float
    low: float
    high: float


def proportion(successes: int, n: int) -> Figure:
    """A share of n independent trials, with Wilson's interval (which does not shrink to a point at 0 or 1)."""
    p = successes / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return _figure(p, max(centre - half, 0.0), min(centre + half, 1.0))


def mean(values: Sequence[float], seed: int = 0) -> Figure:
    """The mean of one value a prompt, with a bootstrap interval over prompts."""
    return ratio(values, [1.0] * len(values), seed)


def ratio(totals: Sequence[float], counts: Sequence[float], seed: int = 0) -> Figure:
    """sum(totals) / sum(counts), one of each a prompt, with a bootstrap interval over prompts."""
    t, c = np.asarray(totals, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(t), (RESAMPLES, len(t)))
    counted = c[drawn].sum(1)
    estimates = t[drawn].sum(1)[counted > 0] / counted[counted > 0]
    return _figure(float(t.sum() / c.sum()), *np.quantile(estimates, [0.025, 0.975]).tolist())


def wins(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The share of pairs in which ours is the higher, ties counted half."""
    a, b = np.asarray(ours)[:, None], np.asarray(theirs)[None, :]
    return float(((a > b) + 0.5 * (a == b)).mean())


def concordance(scores: Sequence[float], truth: Sequence[float]) -> tuple[int, int]:
    """(pairs that `scores` orders as `truth` does, pairs that truth orders at all)."""
    s, t = _differences(scores), _differences(truth)
    return int(((s * t) > 0).sum()), int((t != 0).sum())


def kendall_tau(scores: Sequence[float], truth: Sequence[float]) -> float | None:
    """Kendall's tau-b, None where one side is all ties."""
    s, t = np.sign(_differences(scores)), np.sign(_differences(truth))
    spread = math.sqrt(float((s != 0).sum()) * float((t != 0).sum()))
    return float((s * t).sum()) / spread if spread else None


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's correlation, None where one side does not vary."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / spread if spread > 1e-12 else None


def _differences(x: Sequence[float]) -> np.ndarray:
    """x_i - x_j for i < j."""
    a = np.asarray(x, dtype=np.float64)
    i, j = np.triu_indices(len(a), 1)
    return a[i] - a[j]


def _figure(value: float, low: float, high: float) -> Figure:
    return {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4)}
