"""The quality of a reward model on held-out groups: figures over pairs of completions of the same prompt.

A pair counts if the true judge ranks one completion above the other; it is right if the scores have the same order
(equal scores are wrong). The intervals are over prompts (`statistics.py`). ECE (arXiv 1706.04599) is the mean over
pairs of |observed - predicted| of the pair's bin; it is biased upwards, so with few pairs it is above 0 even for a
perfect model. The length-controlled accuracy is the accuracy on pairs whose texts have nearly the same length. So it
needs no assumption about the effect of length, and can be compared with the plain accuracy; it uses fewer pairs, so it
has its own count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tropism import statistics
from tropism.errors import TropismError
from tropism.stages.reward import HELD_OUT
from tropism.statistics import SHARE, Figure, rounded
from tropism.store.groups import read_groups
from tropism.types import Group

BINS = 10  # of the predicted probability, from one half to one
AS_LONG = 1.1  # the longer of two texts has at most this many times the characters of the shorter


@dataclass(frozen=True)
class Scored:
    """One held-out group, without completions that lack a score or a judgment. `k` counts these too."""

    k: int
    scores: np.ndarray
    truth: np.ndarray
    lengths: np.ndarray  # characters


@dataclass(frozen=True)
class Pairs:
    """The P pairs that have an order by the truth, in G groups."""

    groups: int
    group_P: np.ndarray
    k_P: np.ndarray  # the number of completions of the group
    margin_P: np.ndarray  # |difference of scores|
    right_P: np.ndarray  # 1 right, 0 wrong, 0.5 equal scores
    as_long_P: np.ndarray  # True = of nearly equal length

    def accuracy(self, keep_P: np.ndarray) -> dict[str, Any]:
        """{"n", "accuracy"} of some of the pairs."""
        totals, counts = (
            np.bincount(self.group_P[keep_P], x[keep_P], self.groups).tolist()
            for x in ((self.right_P == 1.0).astype(float), np.ones(len(self.group_P)))
        )
        return {"n": int(keep_P.sum()), "accuracy": statistics.ratio(totals, counts, SHARE)}


def held_out_groups(reward: str) -> list[Group]:
    """The groups that a reward stage held out, with its scores."""
    path = Path(reward) / HELD_OUT
    if not path.exists():
        raise TropismError(f"{reward} has no held-out groups: raise `test` in the label stage before it")
    return list(read_groups(path))


def reward_figures(groups: Sequence[Group], against: str) -> dict[str, Any]:
    """Accuracy, rank correlation, length bias and calibration; `counted` has the number of pairs or groups for each."""
    found = [scored(group, against) for group in groups]
    pairs = pairs_of(found)
    figures: dict[str, Any] = {"n_groups": len(groups), "n_pairs": len(pairs.group_P), "against": against}
    counted: dict[str, int] = {}
    every = np.ones(len(pairs.group_P), dtype=bool)
    for name, keep in (("pair_accuracy", every), ("length_controlled_accuracy", pairs.as_long_P)):
        if keep.any():
            row = pairs.accuracy(keep)
            figures[name], counted[name] = row["accuracy"], row["n"]
    for name, correlate, x, y in (
        ("kendall_tau", statistics.kendall_tau, "scores", "truth"),
        ("length_correlation", statistics.correlation, "scores", "lengths"),
        ("length_correlation_truth", statistics.correlation, "truth", "lengths"),
    ):
        values = [correlate(getattr(s, x), getattr(s, y)) for s in found if len(s.scores)]
        if known := [v for v in values if v is not None]:
            figures[name], counted[name] = statistics.mean(known, (-1.0, 1.0)), len(known)
    figures["calibration"] = calibration(pairs)
    if every.any():
        figures["calibration_error"], counted["calibration_error"] = calibration_error(pairs), len(every)
        figures["accuracy_by_margin"] = accuracy_by_margin(pairs)
        figures["accuracy_by_k"] = [
            {"k": int(k), **pairs.accuracy(pairs.k_P == k)} for k in np.unique(pairs.k_P).tolist()
        ]
    return {**figures, "counted": counted}


def scored(group: Group, against: str) -> Scored:
    found, truth = group.judgment("reward_model"), group.judgment(against)
    if found is None or truth is None:
        raise TropismError(
            f"group {group.id} has no judgment by {against!r}: set `against` to a judge of the label stage"
        )
    kept = [
        (s, t, len(c.text))
        for s, t, c in zip(found.scores, truth.scores, group.completions)
        if s is not None and t is not None
    ]
    return Scored(len(group.completions), *np.asarray(kept, dtype=np.float64).reshape(-1, 3).T)


def pairs_of(found: Sequence[Scored]) -> Pairs:
    """Each pair once."""
    parts: list[tuple[np.ndarray, ...]] = []
    for number, s in enumerate(found):
        i, j = np.triu_indices(len(s.scores), 1)
        order = np.sign(s.truth[i] - s.truth[j])
        i, j, order = i[order != 0], j[order != 0], order[order != 0]
        difference = s.scores[i] - s.scores[j]
        longer, shorter = np.maximum(s.lengths[i], s.lengths[j]), np.minimum(s.lengths[i], s.lengths[j])
        right, same = (np.sign(difference) * order + 1) / 2, np.ones(len(i), dtype=int)
        parts.append((same * number, same * s.k, np.abs(difference), right, longer <= AS_LONG * shorter))
    empty = (np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0), np.zeros(0, bool))
    return Pairs(len(found), *(np.concatenate(columns) for columns in zip(empty, *parts)))


def calibration(pairs: Pairs) -> list[dict[str, float]]:
    """Equal bins of σ(score difference), the predicted probability that the preferred one is better, with its
    frequency."""
    predicted, bins = _predicted(pairs)
    return [
        {
            "predicted": round(float(predicted[bins == b].mean()), 4),
            "observed": round(float(pairs.right_P[bins == b].mean()), 4),
            "n": int((bins == b).sum()),
        }
        for b in range(BINS)
        if (bins == b).any()
    ]


def calibration_error(pairs: Pairs) -> Figure:
    """ECE: sum over bins of |sum of (observed - predicted)|, over the number of pairs.

    For the interval, groups are drawn with replacement, after adding two average groups, one with all pairs right and
    one with all wrong, as unseen groups may be."""
    predicted, bins = _predicted(pairs)
    gap_GB = np.zeros((pairs.groups, BINS))
    np.add.at(gap_GB, (pairs.group_P, bins), pairs.right_P - predicted)
    n_G = np.bincount(pairs.group_P, minlength=pairs.groups)
    more_2B = np.stack([np.bincount(bins, observed - predicted, BINS) for observed in (1, 0)]) / pairs.groups
    gap_GB, weight_G = np.concatenate([gap_GB, more_2B]), np.append(n_G, [n_G.mean()] * 2)
    even = np.full(len(weight_G), 1 / len(weight_G))
    times = np.random.default_rng(0).multinomial(pairs.groups, even, statistics.RESAMPLES)
    drawn = times[times @ weight_G > 0]  # the count of each group in each resample that has pairs
    low, high = np.quantile(np.abs(drawn @ gap_GB).sum(1) / (drawn @ weight_G), [0.025, 0.975])
    return rounded(np.abs(gap_GB[:-2].sum(0)).sum() / n_G.sum(), low, high)


def accuracy_by_margin(pairs: Pairs) -> list[dict[str, Any]]:
    """Four quarters of the pairs by |difference of scores|, the closest first; `margin` is the quarter's range."""
    quarter_P = np.searchsorted(np.quantile(pairs.margin_P, [0.25, 0.5, 0.75]), pairs.margin_P, side="right")
    rows = []
    for quarter in np.unique(quarter_P).tolist():
        keep = quarter_P == quarter
        ends = [round(float(end(pairs.margin_P[keep])), 4) for end in (np.min, np.max)]
        rows.append({"margin": ends, **pairs.accuracy(keep)})
    return rows


def _predicted(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """(P,) probabilities of the preferred completions, and the index of the bin of each."""
    predicted = 1 / (1 + np.exp(-pairs.margin_P))
    return predicted, np.clip(((predicted - 0.5) * 2 * BINS).astype(int), 0, BINS - 1)
