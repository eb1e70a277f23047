"""Best of n, measured: how far it moves the policy, and what quality to expect of it, for all n from one sample set.

The distance, n ≥ 1, π_n the policy that answers with the best of n samples of π (arXiv 2009.01325; that it bounds the
KL divergence from above, and is it where no two samples score alike: arXiv 2401.01879):

    KL(π_n ‖ π) ≤ log n − (n−1)/n        nats a completion

The quality (arXiv 2112.09332, appendix): of N scored samples of one prompt, the mean over all subsets of n of the truth
of the best by score. Sorted by score, sample i (from 1) is the best of C(i−1, n−1) of the C(N, n) subsets:

    E_n = Σ_i C(i−1, n−1) / C(N, n) · truth_i

It uses every sample for every n, and is unbiased; splitting N samples into N/n sets is unbiased too, and noisier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tropism.errors import TropismError


def kl_bound(n: int) -> float:
    """Nats between the policy and the best of n of its samples, at most; exactly, if no two samples score alike."""
    if n < 1:
        raise TropismError(f"n = {n} is no number of samples: use 1 or more")
    return math.log(n) - (n - 1) / n


def expected_best(scores: Sequence[float | None], truth: Sequence[float | None]) -> list[float]:
    """E_1 … E_N in units of `truth`: what the best of n by `scores` is expected to be worth, for one prompt.

    Equal scores share: their truths are averaged, as a fair draw among them would. A score of None is below all others,
    as the search takes such a sample only where it has no scored one. A sample whose truth is None is left out, so N is
    the number of those known; nothing known gives [].
    """
    known = [(-math.inf if s is None else s, t) for s, t in zip(scores, truth, strict=True) if t is not None]
    if not known:
        return []
    score, value = np.asarray(known, dtype=np.float64).T
    level = np.unique(score, return_inverse=True)[1]  # of equal scores, the lowest first
    size = np.bincount(level)
    mean = np.bincount(level, weights=value) / size
    upto = np.concatenate([[0], size.cumsum()])  # how many samples score at most this level
    below = np.ones(len(upto))  # C(upto, n) / C(N, n): the share of subsets that hold nothing above this level
    estimates = []
    for taken in range(len(known)):
        below = below * np.maximum(upto - taken, 0) / (len(known) - taken)
        estimates.append(float(np.diff(below) @ mean))
    return estimates
