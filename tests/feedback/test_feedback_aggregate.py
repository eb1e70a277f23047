"""One judgment of what several people said: worked by hand, by another optimiser, by the normal distribution's formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from tropism.errors import TropismError
from tropism.feedback.aggregate import How, combined, reliabilities
from tropism.tensors.maths import plackett_luce
from tropism.types import Completion, Group, Judgment, Message

EVERY: tuple[How, ...] = ("mean_rank", "plackett_luce", "reliability")


def group(said: Mapping[str, Sequence[float | None]], scale: str = "ordinal", k: int = 3) -> Group:
    judgments = tuple(Judgment(name, tuple(scores), scale) for name, scores in said.items())  # pyright: ignore[reportArgumentType]
    return Group("g", (Message("user", "?"),), tuple(Completion(str(i)) for i in range(k)), judgments)


def test_mean_rank_by_hand():
    said = {"ann": [-1, -2, -3], "bob": [-2, -1, -2], "cy": [None, -5, None], "dan": [None, None, None]}
    (found,) = combined([group(said)], "mean_rank")
    # ann 1 2 3; bob 2.5 1 2.5; cy ranked one alone, which says nothing: in the middle of three, 2
    assert found.scores == pytest.approx((-(1 + 2.5) / 2, -(2 + 1 + 2) / 3, -(3 + 2.5) / 2))
    assert (found.judge, found.scale) == ("people@1", "ordinal")


@pytest.mark.parametrize("how", EVERY)
def test_what_nobody_scored_has_no_score_and_equals_stay_equal(how: How):
    groups = [
        group({"ann": [3, 1, 1, None], "bob": [2, 0, 0, None]}, k=4),
        group({}, k=2),
        group({"ann": [None, None]}, k=2),
        group({"ann": [0.0, 0.0], "bob": [0.0, 0.0]}, k=2),  # "none is good"
    ]
    first, nobody, abstained, bad = (judgment.scores for judgment in combined(groups, how))
    assert first[0] is not None and first[1] is not None and first[0] > first[1]
    assert first[1] == first[2] and first[3] is None
    assert nobody == abstained == (None, None)
    assert bad[0] == bad[1] is not None


@pytest.mark.parametrize("how", EVERY)
def test_people_and_the_newest_word_of_each(how: How):
    judgments = (
        Judgment("ann", (1.0, 2.0), "ordinal"),
        Judgment("ann", (2.0, 1.0), "ordinal"),
        Judgment("judge@1", (0.0, 9.0), "ordinal"),
        Judgment("people@1", (0.0, 9.0), "ordinal"),
    )
    one = Group("g", (), (Completion("a"), Completion("b")), judgments)
    (found,) = combined([one], how, people=["ann"])
    assert found.best == 0
    last_word = Judgment("adjudicator", (0.0, 1.0), "ordinal")
    (found,) = combined([Group("g", (), one.completions, (*judgments, last_word))], how)
    assert found.scores == (0.0, 1.0)


def test_plackett_luce_is_the_optimum_another_optimiser_finds():
    """Of the likelihood that the reward model is trained with, plus the tie of each answer with one of worth 1."""
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 4, size=(6, 5)).astype(float)  # ties
    scores[rng.random(scores.shape) < 0.2] = np.nan
    said = {f"p{i}": [None if np.isnan(s) else s for s in row] for i, row in enumerate(scores)}
    said["all tied"] = [1.0] * 5
    rank = torch.tensor(
        [
            [0 if s is None else len({t for t in row if t is not None and t > s}) + 1 for s in row]
            for row in said.values()
        ]
    )
    s = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [s], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        ties = -(torch.nn.functional.logsigmoid(s) + torch.nn.functional.logsigmoid(-s)).sum() / 2
        total = plackett_luce(s.expand(len(rank), 5), rank, torch.ones_like(rank, dtype=torch.bool)).sum() + ties
        total.backward()
        return total

    optimiser.step(loss)  # pyright: ignore[reportArgumentType]
    (found,) = combined([group(said, k=5)], "plackett_luce")
    assert found.scores == pytest.approx(s.detach().numpy(), abs=1e-5)


def test_one_comparison_by_hand():
    """One win of two: by symmetry worths are w and 1/w; w = (1 + 1/2) / (1/(w + 1/w) + 1/(w + 1))."""
    (found,) = combined([group({"ann": [1, 0]}, k=2)], "plackett_luce")
    assert found.scores[0] is not None
    w = np.exp(found.scores[0])
    assert found.scores[1] == pytest.approx(-found.scores[0], abs=1e-6)
    assert w == pytest.approx(1.5 / (1 / (w + 1 / w) + 1 / (w + 1)), abs=1e-6)


def ratings(loading: Sequence[float], units: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(U,) qualities and (P, U) ratings of people whose correlation with the quality is known."""
    rng = np.random.default_rng(seed)
    a, quality = np.array(loading)[:, None], rng.normal(size=units)
    return quality, a * quality + np.sqrt(1 - a**2) * rng.normal(size=(len(loading), units))


def rated(x_PU: np.ndarray) -> list[Group]:
    """As one-answer groups; each person has a scale of their own."""
    return [
        group({f"p{i}": [3 * i + (i + 1) * float(x)] for i, x in enumerate(column)}, "interval", k=1)
        for column in x_PU.T
    ]


def test_reliability_is_found_again():
    _, x = ratings((0.9, 0.6, 0.3, 0.0), 4000)
    assert list(reliabilities(rated(x)).values()) == pytest.approx([0.9, 0.6, 0.3, 0.0], abs=0.05)


def test_of_two_people_the_product_is_their_correlation():
    _, x = ratings((0.8, 0.8), 3000)
    assert np.prod(list(reliabilities(rated(x)).values())) == pytest.approx(np.corrcoef(x)[0, 1], abs=0.01)


def test_scores_are_the_conditional_mean_of_the_normal_distribution():
    """E[m | x] = a' inverse(a a' + diag(1 - a²)) x."""
    quality, x = ratings((0.9, 0.6, 0.3), 500)
    groups = rated(x)
    a = np.array(list(reliabilities(groups).values()))
    found = [judgment.scores[0] for judgment in combined(groups, "reliability")]
    z = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    assert found == pytest.approx(a @ np.linalg.solve(np.outer(a, a) + np.diag(1 - a**2), z), abs=1e-5)
    plain = [judgment.scores[0] for judgment in combined(rated(z * [[1], [1], [1]]), "mean_rank")]
    assert (
        np.corrcoef(quality, np.array(found, float))[0, 1] > np.corrcoef(quality, np.array(plain, float))[0, 1] + 0.02
    )


def test_who_goes_against_all_others_counts_for_nothing():
    rng = np.random.default_rng(1)
    groups = []
    for _ in range(60):
        quality = rng.normal(size=5)
        said = {name: quality + 0.5 * rng.normal(size=5) for name in ("ann", "bob", "cy")}
        said["clicks"], said["reversed"] = rng.normal(size=5), -quality
        groups.append(group({name: list(map(float, s)) for name, s in said.items()}, k=5))
    found = reliabilities(groups)
    assert found["reversed"] < 1e-6 and found["clicks"] < 0.25 and min(found[n] for n in ("ann", "bob", "cy")) > 0.7
    without = combined(groups, "reliability", people=["ann", "bob", "cy", "clicks"])
    for one, other in zip(combined(groups, "reliability"), without):
        assert one.scores == pytest.approx(other.scores, abs=0.05)


def test_reliability_beats_the_mean_rank_where_people_differ():
    """Pairs of answers ordered as their quality does; `bench/people.py` has the figures, here it is one seed."""
    rng = np.random.default_rng(8)
    quality, groups = rng.normal(size=(80, 5)), []
    for row in quality:
        noises = {"careful": 0.3, "fair": 0.8, "hasty": 2.0}
        groups.append(group({name: list(map(float, row + n * rng.normal(size=5))) for name, n in noises.items()}, k=5))
    right = {}
    for how in EVERY:
        scores = np.array([judgment.scores for judgment in combined(groups, how)])
        right[how] = np.mean(
            [np.sign(s - s[i]) == np.sign(q - q[i]) for s, q in zip(scores, quality) for i in range(5)]
        )
    assert right["reliability"] > max(right["mean_rank"], right["plackett_luce"]) + 0.02
    found = reliabilities(groups)
    assert found["careful"] > found["fair"] > found["hasty"] > 0.2


def test_ratings_stay_an_interval_scale_and_ranks_do_not():
    rates, ranks = group({"ann": [4, 2, 1], "bob": [5, 3, 3]}, "interval"), group({"ann": [4, 2, 1]})
    assert combined([rates], "mean_rank")[0].scores == (4.5, 2.5, 2.0)
    assert [combined([rates], how)[0].scale for how in EVERY] == ["interval", "ordinal", "interval"]
    assert combined([rates, ranks], "mean_rank")[0].scores == pytest.approx((-1, -2.25, -2.75))  # not all are ratings


def test_plackett_luce_refuses_groups_of_one():
    with pytest.raises(TropismError, match="mean_rank"):
        combined([group({"ann": [1]}, "interval", k=1)], "plackett_luce")


@pytest.mark.parametrize("how", ["mean_rank", "reliability"])
def test_no_groups_no_judgments(how: How):
    assert combined([], how) == []
    assert reliabilities([]) == {}
