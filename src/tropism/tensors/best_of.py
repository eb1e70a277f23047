"""How far best of n moves the policy, and what quality it should have, for all n from one set of samples.

The distance, for n ≥ 1, where π_n is the policy that answers with the best of n samples of π (arXiv 2009.01325). It is
an upper bound of the KL divergence, and exact if no two samples have the same score (arXiv 2401.01879):

    KL(π_n ‖ π) ≤ log n − (n−1)/n        nats per completion

The quality (arXiv 2112.09332, appendix): take the best by score of each subset of n of the N scored samples of a
prompt; the quality is the mean of their true scores. Sorted by score, sample i (from 1) is the best of C(i−1, n−1) of
the C(N, n) subsets:

    E_n = Σ_i C(i−1, n−1) / C(N, n) · truth_i

This uses every sample for every n and is unbiased. Splitting N samples into N/n sets is unbiased too, but noisier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tropism.errors import TropismError


def kl_bound(n: int) -> float:
    """Upper bound in nats of KL(best of n samples, policy); exact if no two samples have the same score."""
    if n < 1:
        raise TropismError(f"n = {n} is not a number of samples: use 1 or more")
    return math.log(n) - (n - 1) / n


def expected_best(scores: Sequence[float | None], truth: Sequence[float | None]) -> list[float]:
    """E_1 … E_N in units of `truth`: the expected truth of the best of n by `scores`, for one prompt.

    The truths of equal scores are averaged, as a fair draw among them would do. A score of None counts as below all
    others, as the search takes such a sample only if no sample has a score. A sample whose truth is None is left out,
    so N is the number of samples with a truth; without any the result is [].
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
