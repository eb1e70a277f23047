"""Figures and intervals, against published tables, hand-counted pairs and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from tropism.statistics import (
    SHARE,
    bounds,
    correlation,
    crossed,
    kendall_tau,
    mean,
    proportion,
    ratio,
    wins,
)


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


@pytest.mark.parametrize("n", [1, 2, 12, 300])
def test_no_bounded_figure_is_a_point(n: int) -> None:
    for value in (0.0, 0.25, 1.0):
        for found in (mean([value] * n, SHARE), ratio([4 * value] * n, [4.0] * n, SHARE)):
            assert found["value"] == value and 0 <= found["low"] < found["high"] <= 1
    assert mean([-1.0] * n, (-1.0, 1.0))["high"] > -1.0 and mean([100.0] * n, (0.0, 100.0))["low"] < 100.0


def test_one_trial_a_prompt_is_wilson_s_and_none_of_many_is_what_three_over_n_says() -> None:
    values = [1.0] * 81 + [0.0] * 182
    assert mean(values, SHARE) == pytest.approx({"value": 0.308, "low": 0.2553, "high": 0.3662}, abs=3e-4)
    assert mean([0.0] * 300, SHARE)["high"] == pytest.approx(proportion(0, 300)["high"], abs=2e-4)
    assert 0.01 < mean([0.0] * 300, SHARE)["high"] < 0.013


def test_a_mean_between_its_bounds_is_student_s_but_for_one_prompt_more() -> None:
    """Where the spread is far from the bounds; the same in other units. And beside the bounds it leans inwards."""
    values = 0.3 + 0.4 * np.random.default_rng(1).random(400)
    found, plain, hundred = mean(values.tolist(), SHARE), mean(values.tolist()), mean(100 * values, (0.0, 100.0))
    half = t.ppf(0.975, 399) * values.std(ddof=1) / math.sqrt(400)
    assert plain["high"] - plain["value"] == pytest.approx(half, abs=1e-4)
    assert found["high"] - found["value"] == pytest.approx(half, rel=0.03)
    assert hundred["low"] == pytest.approx(100 * found["low"], abs=0.01)
    few = mean([0.02, 0.0, 0.01, 0.0, 0.03, 0.0], SHARE)
    assert few["high"] - few["value"] > few["value"] - few["low"] > 0


@pytest.mark.parametrize(("easy", "prompts"), [(0.02, 300), (0.5, 300), (0.99, 100), (0.9, 20)])
def test_an_interval_of_a_share_covers_the_truth(easy: float, prompts: int) -> None:
    """Four answers a prompt, each prompt with a chance of its own (beta, mean `easy`)."""
    rng, covered = np.random.default_rng(2), 0
    for _ in range(400):
        right = rng.binomial(4, rng.beta(3 * easy, 3 * (1 - easy), prompts)) / 4
        found = mean(right.tolist(), SHARE)
        covered += found["low"] <= easy <= found["high"]
    assert 0.93 <= covered / 400 <= 0.995


def test_an_interval_of_a_skewed_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    found = [mean(rng.exponential(1.0, 50).tolist()) for _ in range(200)]
    assert 0.88 <= sum(f["low"] <= 1.0 <= f["high"] for f in found) / 200 <= 0.99


def test_the_unit_is_the_prompt_not_the_pair() -> None:
    """Twenty prompts of a hundred equal answers each are twenty observations, not two thousand."""
    right = np.random.default_rng(3).integers(0, 2, 20).astype(float)
    few = ratio(right.tolist(), [1.0] * 20, SHARE)
    many = ratio((100 * right).tolist(), [100.0] * 20, SHARE)
    assert few == many and many["high"] - many["low"] > 0.3


def test_a_ratio_weighs_prompts_by_their_count() -> None:
    assert ratio([1.0, 0.0], [1.0, 9.0])["value"] == 0.1  # not the mean of the two shares, 0.5
    assert ratio([0.0, 3.0, 2.0], [0.0, 4.0, 4.0]) == ratio([3.0, 2.0], [4.0, 4.0])  # a prompt without a pair
    # residuals 3 - 4·5/8 = 0.5 and 2 - 2.5 = -0.5: variance 2 · (0.25 + 0.25) / 64, t with one degree 12.7062
    half = 12.7062 * math.sqrt(1 / 64)
    assert ratio([3.0, 2.0], [4.0, 4.0])["high"] == pytest.approx(0.625 + half, abs=1e-3)


def test_there_is_no_minus_zero() -> None:
    assert [str(x) for x in mean([-1e-7, -2e-7]).values()] == ["0.0", "0.0", "0.0"]


ADDITIVE = np.array([[1.0, 2.0, 6.0], [3.0, 4.0, 8.0]])
CROSSED = np.array([[1.0, 2.0, 6.0], [3.0, 6.0, 6.0]])


def test_prompts_and_seeds_crossed_by_hand() -> None:
    """Two seeds of means 3 and 5, three prompts: of means 2, 3, 7 without a rest, of 2, 4, 6 with a rest of 4 over 2."""
    found = crossed(ADDITIVE)
    assert (found.value, found.variance) == (4.0, pytest.approx(7 / 3 + 1))
    assert found.freedom == pytest.approx((10 / 3) ** 2 / ((7 / 3) ** 2 / 2 + 1))
    rest = crossed(CROSSED)
    assert rest.variance == pytest.approx(4 / 3 + 1 - 2 / 3 / 2)
    assert rest.freedom == pytest.approx(4 / ((4 / 3) ** 2 / 2 + 1))
    half = t.ppf(0.975, 4 / ((4 / 3) ** 2 / 2 + 1)) * math.sqrt(2)
    assert rest.figure() == {"value": 4.0, "low": round(4 - half, 4), "high": round(4 + half, 4)}
    # the difference: prompts are paired (0, 1, -1 around 0.5), seeds are not (1 and 1, of it 1/3 the rest)
    both = crossed(CROSSED, ADDITIVE - 0.5)
    assert both.value == pytest.approx(0.5)
    assert both.variance == pytest.approx(1 / 3 + 1 + 1 - 1 / 3)
    assert both.freedom == pytest.approx(4 / (1 / 9 / 2 + 1 + 1))
    assert both.p() == pytest.approx(2 * t.sf(0.5 / math.sqrt(2), both.freedom), abs=1e-4)


def test_one_seed_is_a_paired_t_test() -> None:
    a, b = np.random.default_rng(3).normal(size=(2, 1, 25))
    assert crossed(a, b + 0.4).p() == pytest.approx(ttest_rel(a[0], b[0] + 0.4).pvalue, abs=1e-4)


def test_an_interval_leaves_0_out_where_p_is_below_5_percent() -> None:
    rng, below = np.random.default_rng(4), 0
    for n in range(200):
        a, b = rng.beta(2, 1, (2, 3, 20))
        found = crossed(a, 0.85 * b, SHARE if n % 2 else None)
        figure = found.figure()
        assert (found.p() < 0.05) == (figure["low"] > 0 or figure["high"] < 0)
        below += found.p() < 0.05
    assert 10 < below < 190


def test_bounds_are_known_where_all_lie_between_0_and_1() -> None:
    assert bounds([0.0, 1.0, 0.3]) == SHARE and bounds([0.0, 1.1]) is None and bounds([-0.1]) is None


def test_wins_by_hand() -> None:
    assert wins([3.0, 1.0], [2.0, 1.0]) == (2 + 0.5) / 4  # 3>2, 3>1, 1<2, 1=1
    assert wins([1.0], [1.0]) == 0.5
    assert wins([0.0], [1.0, 2.0, 3.0]) == 0.0
    assert wins([3.0, 1.0], [2.0, 1.0]) + wins([2.0, 1.0], [3.0, 1.0]) == 1.0


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
