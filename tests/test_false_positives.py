"""`bench/false_positives.py` in small: equal methods are told apart as seldom as p says, and unequal ones are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent / "bench" / "false_positives.py"
spec = importlib.util.spec_from_file_location("false_positives", PATH)
assert spec and spec.loader
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


@pytest.mark.parametrize("deviation", [0.0, 0.02, 0.04])
def test_equal_methods_of_three_seeds_are_seldom_told_apart(deviation: float) -> None:
    rate, over = bench.found((3, 3), deviation, 0.0, 300)
    assert rate <= 0.06 and over == "prompts and seeds"


def test_unequal_methods_are_told_apart() -> None:
    assert bench.found((3, 3), 0.0, 0.05, 50)[0] >= 0.9


@pytest.mark.parametrize("seeds", [(1, 1), (1, 3)])
def test_one_seed_holds_over_prompts_and_says_so(seeds: tuple[int, int]) -> None:
    rate, over = bench.found(seeds, 0.0, 0.0, 200)
    assert rate <= 0.08 and over == "prompts"


def test_what_the_script_means_by_a_deviation() -> None:
    """The mean quality varies from seed to seed by 0.04, on the same prompts, which have noise of their own."""
    rng = bench.np.random.default_rng(0)
    base_P = bench.EASY + bench.PROMPT * rng.normal(size=bench.PROMPTS)
    spread = {
        deviation: bench.np.var(
            [row[0].truth.mean() for row in bench.method(rng, "a", base_P, 400, deviation, 0.0).seeds]
        )
        for deviation in (0.0, 0.04)
    }
    assert (spread[0.04] - spread[0.0]) ** 0.5 == pytest.approx(0.04, abs=0.005)
