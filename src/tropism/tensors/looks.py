"""Looks: evaluations on held-out prompts during training; and the test for over-optimisation (arXiv 2210.10760).

A look has the learned reward, the true quality and the KL for each held-out prompt, at one moment of training. A policy
is over-optimised if the true quality fell from its best look to its last by more than three standard errors of the
difference, paired by prompt, while the learned reward did not fall. It is three and not two because the best look is
chosen after seeing all of them.

Asked again after each look, this test is true sooner or later by chance. `fall_so_far` asks for more errors, so that the
chance of a false alarm is at most `CHANCE` for a whole run of any length. Look t is compared with one of t - 1 earlier ones
and gets the share 1 / (t (t - 1)) of the chance; these shares add up to 1. Each pair gets CHANCE / (t (t - 1)²), which is
Bonferroni's bound, by Student's t for the number of prompts. `bench/over_optimised.py` measures how often it is wrong, and
how late.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

ERRORS = 3.0  # standard errors
PROMPTS = 10  # with fewer, the standard error itself is too uncertain
CHANCE = 0.05  # of a false alarm in a run that is asked at each look
KEYS = ("reward", "truth")


@dataclass(frozen=True)
class Look:
    """One evaluation of one policy; arrays have a number for each prompt, NaN without a score."""

    spent: float
    kl: float
    reward: np.ndarray
    truth: np.ndarray


def read_look(line: Mapping[str, Any]) -> Look | None:
    """The look in a line of metrics; None without KL or without any score."""
    if not set(KEYS) <= line.get("by_prompt", {}).keys():
        return None
    scored = [np.array([math.nan if x is None else x for x in line["by_prompt"][key]], float) for key in KEYS]
    if not math.isfinite(line["probe_kl"]) or not all(np.isfinite(x).any() for x in scored):
        return None
    return Look(float(line["spent"]), max(float(line["probe_kl"]), 0.0), *scored)


def fall(moments: Sequence[Sequence[Look]], errors: float = ERRORS) -> dict[str, float] | None:
    """The fall of the true quality from its best moment to the last, if it exceeds `errors` standard errors; else None.

    A moment has one look for each seed; their mean is used."""
    mean = {key: np.array([np.mean([getattr(x, key) for x in looks], axis=0) for looks in moments]) for key in KEYS}
    quality = [float(row[np.isfinite(row)].mean()) if np.isfinite(row).any() else -math.inf for row in mean["truth"]]
    best = int(np.argmax(quality))
    if _errors(mean["truth"][-1] - mean["truth"][best]) > -errors:
        return None
    if _errors(mean["reward"][-1] - mean["reward"][best]) < -ERRORS:
        return None
    said = {
        f"{key}_{when}": round(float(np.nanmean(mean[key][i])), 4)
        for key in KEYS[::-1]
        for when, i in (("best", best), ("last", -1))
    }
    at = {key: float(np.mean([getattr(look, key) for look in moments[best]])) for key in ("kl", "spent")}
    return {"kl": round(at["kl"], 4), "spent": round(at["spent"]), **said}


def fall_so_far(looks: Sequence[Look]) -> dict[str, float] | None:
    """The fall of the true quality from its best look to the last, asked after each look; None if it may be chance."""
    pairs = len(looks) * (len(looks) - 1) ** 2
    if not pairs:
        return None
    scored = np.isfinite([look.truth for look in looks])
    prompts = int((scored & scored[-1])[:-1].sum(1).min())
    return fall([[look] for look in looks], max(ERRORS, float(stdtrit(max(prompts - 1, 1), 1 - CHANCE / pairs))))


def _errors(difference: np.ndarray) -> float:
    """The mean of a paired difference divided by its standard error; 0 if there are too few prompts."""
    kept = difference[np.isfinite(difference)]
    if len(kept) < PROMPTS or not kept.any():
        return 0.0
    spread = float(kept.std(ddof=1)) / math.sqrt(len(kept))
    return float(kept.mean()) / spread if spread else math.copysign(math.inf, kept.mean())
