"""Krippendorff's alpha: published values, the definition written out, another library, and what ranks make of it."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from pathlib import Path

import evalica
import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from tropism.feedback.agreement import Metric, alpha, disagreement, estimate, figure, places

DATA = Path(__file__).parents[3] / "shared" / "data" / "agreement"
METRICS: tuple[Metric, ...] = ("nominal", "ordinal", "interval")


def by_definition(table: np.ndarray, metric: Metric) -> float:
    """Every two values of a unit against every two values there are, as Krippendorff (2011) writes it."""
    units = [[v for v in column if not np.isnan(v)] for column in table.T]
    units = [unit for unit in units if len(unit) > 1]
    values = [v for unit in units for v in unit]
    count = Counter(values)

    def distance(v: float, w: float) -> float:
        if metric == "nominal":
            return float(v != w)
        if metric == "interval":
            return (v - w) ** 2
        low, high = sorted((v, w))
        between = sum(n for g, n in count.items() if low <= g <= high)
        return (between - (count[low] + count[high]) / 2) ** 2

    n = len(values)
    observed = sum(distance(*pair) / (len(unit) - 1) for unit in units for pair in itertools.permutations(unit, 2)) / n
    expected = sum(distance(*pair) for pair in itertools.permutations(values, 2)) / (n * (n - 1))
    return 1 - observed / expected


def read(name: str) -> np.ndarray:
    file = DATA / name
    if not file.exists():
        pytest.skip(f"{file} is not there")
    with file.open(encoding="utf-8") as lines:
        rows = list(csv.reader(lines))
    codes = {code: i for i, code in enumerate(sorted({c for row in rows for c in row if c}))}
    return np.array([[codes[c] if c else np.nan for c in row] for row in rows])


@pytest.mark.parametrize(("name", "value"), [("codings.csv", 904 / 1216), ("gcl.csv", 0.0833333)])
def test_published_values(name: str, value: float):
    assert alpha(read(name), "nominal") == pytest.approx(value, abs=1e-7)


# units × people, from evalica's and inspect_ai's tests; None: said nothing
INLINE = [
    ([[1, 2], [2, 3], [3, 4]], "nominal", -0.1538462),
    ([[1, 2], [2, 3], [3, 4]], "interval", 0.5454545),
    ([[0, 1], [0, 1], [1, 0], [1, 0]], "nominal", -0.75),
    ([[1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 1]], "nominal", 1 - 132 / 420),
    ([[1, 1, 0], [0, 0, None]], "nominal", 1 / 3),
    ([[1, 2], [3, 4], [1, 1]], "interval", 19 / 24),
    ([[1, 1], [3, 4], [5, 5]], "ordinal", 94 / 99),
    ([[3, 3], [1, 1], [2, 2]], "ordinal", 1.0),
]


@pytest.mark.parametrize(("units", "metric", "value"), INLINE)
def test_values_worked_by_hand(units: list[list[float | None]], metric: Metric, value: float):
    assert alpha(np.array(units, float).T, metric) == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("metric", METRICS)
def test_the_definition_and_another_library(metric: Metric):
    rng = np.random.default_rng(3)
    for people, units, levels in [(2, 9, 3), (5, 12, 4), (3, 30, 7), (4, 25, 200)]:  # 200: more columns than are dense
        table = rng.integers(1, levels + 1, size=(people, units)).astype(float)
        table[rng.random(table.shape) < 0.3] = np.nan
        found = alpha(table, metric)
        assert found == pytest.approx(by_definition(table, metric), abs=1e-12)
        assert found == pytest.approx(evalica.alpha(pd.DataFrame(table), distance=metric).alpha, abs=1e-9)


def test_nothing_to_agree_on_is_none():
    nobody = np.array([[1, np.nan], [np.nan, 2]])
    assert alpha(nobody, "nominal") is None
    assert alpha(np.full((3, 4), 2.0), "ordinal") is None
    assert alpha(np.zeros((0, 0)), "interval") is None


def test_of_full_rankings_alpha_is_the_mean_spearman_correlation():
    """alpha = 1 - (1 - mean rho)(n - 1) / n over each group's rankings, and ordinal is interval."""
    rng = np.random.default_rng(5)
    people, groups, k = 3, 12, 7
    ranks_PGK = np.array([[rng.permutation(k) + 1.0 for _ in range(groups)] for _ in range(people)])
    table = np.array([[place for ranks in of for place in places(list(-ranks))] for of in ranks_PGK])
    two = [spearmanr(ranks_PGK[a, g], ranks_PGK[b, g]) for g in range(groups) for a, b in ((0, 1), (0, 2), (1, 2))]
    rho = sum(float(found.statistic) for found in two) / len(two)  # pyright: ignore[reportAttributeAccessIssue]
    n = table.size
    for metric in ("ordinal", "interval"):
        assert alpha(table, metric) == pytest.approx(1 - (1 - rho) * (n - 1) / n, abs=1e-12)


def test_places():
    assert places([5.0, 9.0, 7.0]) == [3 / 4, 1 / 4, 2 / 4]
    assert places([1.0, None, 1.0, 3.0]) == [2.5 / 4, None, 2.5 / 4, 1 / 4]
    assert places([0.0, 0.0]) == [0.5, 0.5]  # "none is good" is no order
    assert places([None, None]) == [None, None]
    assert places([]) == []


def test_the_numbering_of_the_answers_does_not_matter():
    """Two people who always prefer the answer that happens to be number 0 agree as two who prefer any other."""
    same = np.array([[1 / 3, 2 / 3] * 6, [1 / 3, 2 / 3] * 5 + [2 / 3, 1 / 3]])
    turned = same.reshape(2, 6, 2).copy()
    turned[:, ::2] = turned[:, ::2, ::-1]
    assert alpha(same, "ordinal") == pytest.approx(alpha(turned.reshape(2, 12), "ordinal"))


def test_the_interval_covers():
    """Two people who see u with unit noise agree by the intraclass correlation 1/2; units stand in clusters of four."""
    rng = np.random.default_rng(11)
    inside = 0
    for seed in range(100):
        seen = rng.normal(size=(30, 4))[:, :, None] + rng.normal(size=(30, 4, 2))
        unit = np.repeat(np.arange(120), 2)
        found = estimate(unit, seen.ravel(), "interval", unit // 4, resamples=300, seed=seed)
        assert found is not None
        inside += found[1] < 0.5 < found[2]
    assert 86 <= inside <= 100


def test_units_that_depend_on_each_other_widen_the_interval():
    """The same values, each four times over: clusters know that nothing was added."""
    rng = np.random.default_rng(2)
    seen = np.repeat(rng.normal(size=40)[:, None] + rng.normal(size=(40, 2)), 4, axis=0)
    unit = np.repeat(np.arange(160), 2)
    alone, together = (estimate(unit, seen.ravel(), "interval", cluster) for cluster in (unit, unit // 4))
    assert alone is not None and together is not None
    assert 1.6 < (together[2] - together[1]) / (alone[2] - alone[1]) < 2.5  # sqrt(4)


def test_the_interval_of_a_large_project_is_narrow():
    """20,000 rankings of 7 by three people."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(20_000, 1, 7)) + rng.normal(size=(20_000, 3, 7))
    place = (np.argsort(np.argsort(-seen)) + 1) / 8
    group = np.broadcast_to(np.arange(20_000)[:, None, None], place.shape)
    unit = group * 7 + np.arange(7)
    found = figure(unit.ravel(), place.ravel(), "ordinal", group.ravel())
    assert found is not None and 0.005 < found["high"] - found["low"] < 0.01


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ([[3, 2, 1], [3, 2, 1]], 0.0),
        ([[3, 2, 1], [1, 2, 3]], 1.0),
        ([[3, 2, 1], [2, 3, 1]], 1 / 3),
        ([[2, 2], [2, 1]], 0.5),  # a tie against an order
        ([[3, None, 1], [1, 2, 3]], 1.0),  # only the pair that both ranked
        ([[2, 1], [2, 1], [1, 2]], 2 / 3),
        ([[1], [0], [1]], 2 / 3),
        ([[1, 2]], None),
        ([[1, None], [None, 1]], None),
        ([[2, 1], [1, 2, 3]], 1.0),  # the third came later
        ([], None),
    ],
)
def test_disagreement(said: list[list[float | None]], value: float | None):
    found = disagreement(said)
    assert found is None if value is None else found == pytest.approx(value)
