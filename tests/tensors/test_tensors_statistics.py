"""Figures and intervals, against published tables, hand-counted pairs and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tropism.tensors.statistics import concordance, correlation, kendall_tau, mean, proportion, ratio, wins


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3: the score interval without correction
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_is_as_published(successes: int, n: int, low: float, high: float) -> None:
    found = proportion(successes, n)
    assert found["value"] == round(successes / n, 4)
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    mirrored = proportion(n - successes, n)
    assert (mirrored["low"], mirrored["high"]) == (
        pytest.approx(1 - high, abs=1.5e-4),
        pytest.approx(1 - low, abs=1.5e-4),
    )


def test_all_right_is_not_certain() -> None:
    assert proportion(10, 10) == {"value": 1.0, "low": 0.7225, "high": 1.0}


def test_bootstrap_interval_of_a_mean_is_that_of_the_normal_theory() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 1000)
    found = mean(values.tolist())
    half = 1.96 * values.std(ddof=1) / math.sqrt(1000)
    assert found["value"] == pytest.approx(values.mean(), abs=1e-4)
    assert found["low"] == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert found["high"] == pytest.approx(values.mean() + half, abs=0.2 * half)


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    trials = 200
    covered = 0
    for seed in range(trials):
        found = mean(rng.exponential(1.0, 50).tolist(), seed)
        covered += found["low"] <= 1.0 <= found["high"]
    assert 0.87 <= covered / trials <= 0.98  # a percentile bootstrap of 50 skewed values is a little short of 95 %


def test_the_unit_is_the_prompt_not_the_pair() -> None:
    """Twenty prompts of a hundred equal answers each are twenty observations, not two thousand."""
    right = np.random.default_rng(3).integers(0, 2, 20).astype(float)
    few = ratio(right.tolist(), [1.0] * 20)
    many = ratio((100 * right).tolist(), [100.0] * 20)
    assert (many["value"], many["low"], many["high"]) == (few["value"], few["low"], few["high"])
    assert many["high"] - many["low"] > 0.3


def test_a_ratio_weighs_prompts_by_their_count() -> None:
    assert ratio([1.0, 0.0], [1.0, 9.0])["value"] == 0.1  # not the mean of the two shares, 0.5
    assert ratio([0.0, 3.0], [0.0, 4.0]) == {"value": 0.75, "low": 0.75, "high": 0.75}  # a prompt without a pair


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(4).normal(size=30).tolist()
    assert mean(values, 7) == mean(values, 7)
    assert mean(values, 7) != mean(values, 8)
    assert mean([2.0] * 5) == {"value": 2.0, "low": 2.0, "high": 2.0}


def test_wins_by_hand() -> None:
    assert wins([3.0, 1.0], [2.0, 1.0]) == (2 + 0.5) / 4  # 3>2, 3>1, 1<2, 1=1
    assert wins([1.0], [1.0]) == 0.5
    assert wins([0.0], [1.0, 2.0, 3.0]) == 0.0
    assert wins([3.0, 1.0], [2.0, 1.0]) + wins([2.0, 1.0], [3.0, 1.0]) == 1.0


def test_concordance_by_hand() -> None:
    #            pairs (1,2) (1,3) (2,3); truth orders all but (2,3)
    assert concordance([1.0, 2.0, 3.0], [0.0, 1.0, 1.0]) == (2, 2)
    assert concordance([3.0, 2.0, 1.0], [0.0, 1.0, 1.0]) == (0, 2)
    assert concordance([1.0, 1.0, 2.0], [0.0, 1.0, 2.0]) == (2, 3)  # a tie of the scores is no order
    assert concordance([1.0], [1.0]) == (0, 0)


def test_kendall_tau_b_by_hand() -> None:
    assert kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx((5 - 1) / 6)
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1.0
    # scores tie in (1,2), truth in (2,3); the four pairs left agree: 4 / sqrt(5 * 5)
    assert kendall_tau([1, 1, 2, 3], [1, 2, 2, 3]) == pytest.approx(0.8)
    assert kendall_tau([1, 1], [1, 2]) is None
    assert kendall_tau([1, 2], [1, 1]) is None


def test_correlation_is_that_of_numpy() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=40)
    y = 0.5 * x + rng.normal(size=40)
    assert correlation(x.tolist(), y.tolist()) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
    assert correlation([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]) is None
