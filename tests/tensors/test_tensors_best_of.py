"""Best of n: the bound by hand and by its definition, the estimate against going through all subsets."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from statistics import fmean

import pytest

from tropism.errors import TropismError
from tropism.tensors.best_of import expected_best, kl_bound
from tropism.types import Completion, Judgment


def test_the_bound_by_hand() -> None:
    assert kl_bound(1) == 0.0
    assert kl_bound(2) == pytest.approx(0.6931471805599453 - 0.5, abs=1e-15)
    assert kl_bound(4) == pytest.approx(1.3862943611198906 - 0.75, abs=1e-15)
    with pytest.raises(TropismError, match="n = 0 is not a number of samples"):
        kl_bound(0)


@pytest.mark.parametrize("n", [2, 4, 16])
def test_the_bound_is_the_divergence_of_a_policy_of_many_different_scores(n: int) -> None:
    """m equally likely answers with m scores: answer i of m is the best of n with (i/m)^n - ((i-1)/m)^n."""
    m = 20_000
    chances = [(i / m) ** n - ((i - 1) / m) ** n for i in range(1, m + 1)]
    exact = math.fsum(p * math.log(p * m) for p in chances if p)
    assert exact <= kl_bound(n)
    assert exact == pytest.approx(kl_bound(n), rel=2e-3)


def test_the_bound_is_above_the_divergence_of_a_policy_of_two_answers() -> None:
    """The better of two answers, half the samples each, is the best of 4 with 15/16."""
    exact = 15 / 16 * math.log(15 / 8) + 1 / 16 * math.log(1 / 8)
    assert exact < kl_bound(4)


def brute(scores: Sequence[float | None], truth: Sequence[float], n: int) -> float:
    """The mean over all subsets of n; where the best score is shared, the mean of those that share it."""

    def worth(subset: tuple[int, ...]) -> float:
        scored = [i for i in subset if scores[i] is not None] or list(subset)
        top = max(scores[i] or 0.0 for i in scored)
        return fmean(truth[i] for i in scored if (scores[i] or 0.0) == top)

    return fmean(worth(subset) for subset in itertools.combinations(range(len(truth)), n))


@pytest.mark.parametrize(
    "scores",
    [
        [0.3, -1.0, 2.0, 0.7, 5.0, -0.2],
        [1.0, 1.0, 1.0, 1.0],
        [0.0, 1.0, 0.0, 1.0, 1.0, 2.0, 2.0],
        [None, -3.0, None, 2.0, 2.0, -3.0],
        [None, None, None],
        [4.0],
    ],
)
def test_all_subsets_by_brute_force(scores: list[float | None]) -> None:
    rng = random.Random(1)
    truth = [rng.gauss(0.0, 1.0) for _ in scores]
    found = expected_best(scores, truth)
    assert len(found) == len(scores)
    for n, value in enumerate(found, 1):
        assert value == pytest.approx(brute(scores, truth, n), abs=1e-12)


@pytest.mark.parametrize("scores", [[1.0, 0.0, 1.0, 2.0, 2.0], [None, 1.0, None, 1.0, 0.0], [None] * 3])
def test_it_expects_what_the_search_does(scores: list[float | None]) -> None:
    """Over all ways to draw n of the samples in order, the truth of the one that best of n answers with."""
    truth = [float(2**i) for i in range(len(scores))]
    found = expected_best(scores, truth)
    for n in range(1, len(scores) + 1):
        worth = []
        for drawn in itertools.permutations(range(len(scores)), n):
            completions = tuple(Completion(str(i)) for i in drawn)
            kept = Judgment("rm", tuple(scores[i] for i in drawn)).best
            worth.append(truth[int(completions[kept or 0].text)])
        assert found[n - 1] == pytest.approx(fmean(worth), rel=1e-12)


def test_by_hand() -> None:
    """Scores 1 < 2 < 3 with truths 0, 6, 3: of two, the pairs are worth 6, 3, 3."""
    assert expected_best([2.0, 1.0, 3.0], [6.0, 0.0, 3.0]) == pytest.approx([3.0, 4.0, 3.0])


def test_one_is_the_mean_and_all_are_the_best() -> None:
    rng = random.Random(2)
    scores, truth = [[rng.gauss(0.0, 1.0) for _ in range(500)] for _ in range(2)]
    found = expected_best(scores, truth)
    assert found[0] == pytest.approx(fmean(truth), abs=1e-12)
    assert found[-1] == pytest.approx(truth[scores.index(max(scores))], abs=1e-12)
    assert expected_best(truth, truth) == sorted(expected_best(truth, truth))  # of itself, more is never less
    n, ordered = 37, [t for _, t in sorted(zip(scores, truth))]
    weights = [math.comb(i - 1, n - 1) / math.comb(500, n) for i in range(1, 501)]  # the formula of the paper
    assert found[n - 1] == pytest.approx(math.fsum(w * t for w, t in zip(weights, ordered)), abs=1e-12)


def test_what_is_not_known_is_left_out_and_not_zero() -> None:
    assert expected_best([1.0, 2.0, 3.0], [5.0, None, 7.0]) == expected_best([1.0, 3.0], [5.0, 7.0]) == [6.0, 7.0]
    assert expected_best([1.0, 2.0, 3.0], [5.0, None, 7.0]) == [6.0, 7.0]
    assert expected_best([None, 1.0], [5.0, 7.0]) == [6.0, 7.0]
    assert expected_best([1.0], [None]) == expected_best([], []) == []
    with pytest.raises(ValueError, match="shorter"):
        expected_best([1.0, 2.0], [1.0])
