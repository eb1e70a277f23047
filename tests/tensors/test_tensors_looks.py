"""How sure a fall of the true quality must be, asked once and asked at each look, against scipy and by simulation."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from tropism.tensors.looks import Look, fall, fall_so_far

PATH = Path(__file__).parents[2] / "bench" / "over_optimised.py"
spec = importlib.util.spec_from_file_location("over_optimised", PATH)
assert spec and spec.loader
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


def look(truth: Sequence[float], reward: float = 0.0) -> Look:
    return Look(1.0, 1.0, np.full(len(truth), reward), np.asarray(truth, float))


def fallen_by(errors: float, prompts: int, before: int) -> list[Look]:
    """So many equal looks, and one whose truth is lower by this many standard errors of the paired difference."""
    noise = np.linspace(-1, 1, prompts)
    noise /= noise.std(ddof=1) / prompts**0.5
    looks = [look(np.zeros(prompts))] * before + [look(noise - errors)]
    assert ttest_rel(looks[-1].truth, looks[0].truth).statistic == pytest.approx(-errors)
    return looks


@pytest.mark.parametrize(
    ("looks", "prompts"), [(2, 10), (2, 300), (5, 10), (5, 300), (11, 12), (40, 20)], ids=lambda n: str(n)
)
def test_the_more_looks_and_the_fewer_prompts_the_more_errors_it_takes(looks: int, prompts: int) -> None:
    """One chance in twenty, shared among the looks by 1 / (t (t - 1)) and at a look among the earlier ones."""
    needed = max(3.0, t.isf(0.05 / (looks * (looks - 1)) / (looks - 1), prompts - 1))
    assert fall_so_far(fallen_by(needed + 0.01, prompts, looks - 1))
    assert not fall_so_far(fallen_by(needed - 0.01, prompts, looks - 1))
    assert fall([[one] for one in fallen_by(3.01, prompts, looks - 1)])  # asked once


def test_the_shares_of_the_looks_are_the_whole_chance() -> None:
    assert sum(1 / (n * (n - 1)) for n in range(2, 100_000)) == pytest.approx(1, abs=1e-4)


def test_prompts_without_a_score_are_no_evidence() -> None:
    """Of 300 prompts 12 are scored at the last look: it takes what 12 prompts take."""
    needed = t.isf(0.05 / 2, 11)
    assert needed < 3  # so at two looks it is three
    looks = fallen_by(4.0, 12, 4)
    wide = [look([*one.truth, *[np.nan if one is looks[-1] else 0.0] * 288]) for one in looks]
    assert t.isf(0.05 / 80, 299) < 4 < t.isf(0.05 / 80, 11)
    assert not fall_so_far(wide) and not fall_so_far(looks)
    assert not fall_so_far(looks[:1]) and not fall_so_far([])


def test_a_run_whose_quality_stays_is_seldom_ended_and_one_that_falls_is() -> None:
    (wrong,) = bench.rates(20, bench.fall_so_far, 60, (20,))
    (asked_as_often,) = bench.rates(20, bench.at_three, 60, (20,))
    assert wrong <= 0.05 and asked_as_often > 0.1
    rng = np.random.default_rng(1)
    assert all(bench.ended(rng, 50, 40, bench.fall_so_far, 0.02) for _ in range(10))
