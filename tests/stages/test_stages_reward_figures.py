"""What is said of a reward model, worked by hand or counted again pair by pair in plain Python."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tropism.errors import TropismError
from tropism.stages._reward_figures import calibration, pairs_of, reward_figures, scored
from tropism.types import Completion, Group, Judgment


def marked(
    id: str, reward: tuple[float, ...], truth: tuple[float | None, ...], lengths: tuple[int, ...] | None = None
) -> Group:
    answers = tuple(Completion("x" * n) for n in lengths or range(len(reward)))
    return Group(id, (), answers, (Judgment("truth", truth), Judgment("reward_model@1", reward)))


BY_HAND = [
    # pairs (1,2) right, (1,3) right, (2,3) tied in truth; tau-b = 2 / sqrt(3 * 2); length rises as the score falls
    marked("a", (3.0, 2.0, 1.0), (1.0, 0.0, 0.0), (1, 2, 3)),
    # the third is not judged: one pair, wrong
    marked("b", (0.0, 5.0, 9.0), (1.0, 0.0, None), (1, 2, 99)),
    # nothing is told apart
    marked("c", (1.0, 2.0), (1.0, 1.0), (4, 4)),
]


def test_reward_figures_by_hand() -> None:
    found = reward_figures(BY_HAND, "truth")
    assert (found["n_groups"], found["n_pairs"], found["against"]) == (3, 3, "truth")
    assert found["pair_accuracy"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["kendall_tau"]["value"] == pytest.approx((2 / 6**0.5 - 1) / 2, abs=1e-4)
    assert found["length_correlation"]["value"] == pytest.approx((-1 + 1) / 2, abs=1e-4)
    assert found["length_correlation_truth"]["value"] == pytest.approx((-(3**0.5) / 2 - 1) / 2, abs=1e-4)
    assert found["counted"] == {
        "pair_accuracy": 3,
        "kendall_tau": 2,
        "length_correlation": 2,
        "length_correlation_truth": 2,
        "calibration_error": 3,
    }
    assert "length_controlled_accuracy" not in found  # no pair that the truth orders is of nearly equal length
    assert [(r["k"], r["n"], r["accuracy"]["value"]) for r in found["accuracy_by_k"]] == [(3, 3, 0.6667)]


def test_calibration_by_hand() -> None:
    # score differences 0.1 (right), 0.1 (wrong), 4 (right); a truth that ties is not counted
    groups = [
        marked(f"g{n}", reward, truth)
        for n, (reward, truth) in enumerate(
            [((0.1, 0.0), (1, 0)), ((0.0, 0.1), (1, 0)), ((4.0, 0.0), (1, 0)), ((1.0, 0.0), (1, 1))]
        )
    ]
    low, high = 1 / (1 + math.exp(-0.1)), 1 / (1 + math.exp(-4.0))
    assert calibration(pairs_of([scored(g, "truth") for g in groups])) == [
        {"predicted": round(low, 4), "observed": 0.5, "n": 2},
        {"predicted": round(high, 4), "observed": 1.0, "n": 1},
    ]
    found = reward_figures(groups, "truth")
    assert found["calibration_error"]["value"] == pytest.approx(2 / 3 * (low - 0.5) + 1 / 3 * (1 - high), abs=1e-4)
    assert found["counted"]["calibration_error"] == 3


def test_equal_scores_are_wrong_and_to_calibration_half_right() -> None:
    found = reward_figures([marked("a", (1.0, 1.0), (1.0, 0.0))], "truth")
    assert found["pair_accuracy"]["value"] == 0.0
    assert found["calibration"] == [{"predicted": 0.5, "observed": 0.5, "n": 1}]
    assert found["calibration_error"]["value"] == 0.0


def test_accuracy_by_margin_by_hand() -> None:
    # differences 1, 2 … 8 of eight prompts; right are 2, 5, 6, 7 and 8
    right = {2, 5, 6, 7, 8}
    groups = [marked(str(d), (float(d), 0.0), (1.0, 0.0) if d in right else (0.0, 1.0)) for d in range(1, 9)]
    rows = reward_figures(groups, "truth")["accuracy_by_margin"]
    assert [(r["margin"], r["n"], r["accuracy"]["value"]) for r in rows] == [
        ([1.0, 2.0], 2, 0.5),
        ([3.0, 4.0], 2, 0.0),
        ([5.0, 6.0], 2, 1.0),
        ([7.0, 8.0], 2, 1.0),
    ]


def test_margins_that_are_equal_stay_together() -> None:
    rows = reward_figures([marked(str(n), (1.0, 0.0), (1.0, 0.0)) for n in range(8)], "truth")["accuracy_by_margin"]
    assert [(r["margin"], r["n"]) for r in rows] == [([1.0, 1.0], 8)]


def test_length_is_held_fixed_by_hand() -> None:
    groups = [
        marked("a", (1.0, 0.0), (1.0, 0.0), (110, 100)),  # nearly as long, right
        marked("b", (0.0, 1.0), (1.0, 0.0), (100, 110)),  # nearly as long, wrong
        marked("c", (0.0, 1.0), (1.0, 0.0), (10, 10)),  # as long, wrong
        marked("d", (1.0, 0.0), (1.0, 0.0), (111, 100)),  # longer: not counted
        marked("e", (1.0, 0.0), (1.0, 0.0), (50, 100)),
    ]
    found = reward_figures(groups, "truth")
    assert found["length_controlled_accuracy"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["counted"]["length_controlled_accuracy"] == 3
    assert found["pair_accuracy"]["value"] == pytest.approx(3 / 5)


def test_a_model_of_length_alone_is_no_better_than_chance_where_length_is_held_fixed() -> None:
    """The truth likes long texts, and so does the model, with noise of its own in place of anything else."""
    rng = random.Random(0)
    groups = []
    for n in range(200):
        lengths = tuple(rng.choice((100, 150, 200, 250)) for _ in range(4))
        scores, truth = (tuple(length + 40 * rng.random() for length in lengths) for _ in range(2))
        groups.append(marked(str(n), scores, truth, lengths))
    found = reward_figures(groups, "truth")
    fixed = found["length_controlled_accuracy"]
    assert fixed["low"] < 0.5 < fixed["high"] < 0.6 < 0.8 < found["pair_accuracy"]["low"]
    assert found["length_correlation"]["low"] > 0.8


def simulated(n: int = 120) -> list[Group]:
    """Groups of 2 to 5 with ties, missing judgments, and truths drawn by the scores' own odds."""
    rng = random.Random(1)
    groups = []
    for i in range(n):
        k = rng.randint(2, 5)
        scores = tuple(round(16 * rng.gauss(0, 1)) / 8 for _ in range(k))  # differences are exact, and some are 0
        truth = tuple(
            None if rng.random() < 0.1 else round(s - math.log(-math.log(rng.random()))) for s in scores
        )  # Gumbel noise: the order follows Plackett-Luce
        groups.append(marked(str(i), scores, truth, tuple(rng.randint(8, 12) for _ in scores)))
    return groups


def test_every_figure_counted_again_pair_by_pair() -> None:
    groups = simulated()
    rows: list[dict[str, Any]] = []
    for g in groups:
        truth, scores = (j.scores for j in g.judgments)
        for i, j in itertools.combinations(range(len(scores)), 2):
            a, b = truth[i], truth[j]
            if a is None or b is None or a == b:
                continue
            d = (scores[i] or 0.0) - (scores[j] or 0.0)
            long, short = sorted((len(g.completions[i].text), len(g.completions[j].text)), reverse=True)
            rows.append(
                {
                    "k": len(scores),
                    "margin": abs(d),
                    "right": d * (a - b) > 0,
                    "half": 0.5 if d == 0 else float(d * (a - b) > 0),
                    "as_long": long / short <= 1.1,
                }
            )

    def accuracy(kept: list[dict[str, Any]]) -> float:
        return pytest.approx(sum(r["right"] for r in kept) / len(kept), abs=1e-4)

    found = reward_figures(groups, "truth")
    assert found["n_pairs"] == len(rows) > 300
    assert found["pair_accuracy"]["value"] == accuracy(rows)
    same = [r for r in rows if r["as_long"]]
    assert 50 < len(same) < len(rows)
    assert found["length_controlled_accuracy"]["value"] == accuracy(same)
    assert [r["k"] for r in found["accuracy_by_k"]] == [2, 3, 4, 5]
    for row in found["accuracy_by_k"]:
        of_k = [r for r in rows if r["k"] == row["k"]]
        assert (row["n"], row["accuracy"]["value"]) == (len(of_k), accuracy(of_k))
    quarters = found["accuracy_by_margin"]
    assert sum(q["n"] for q in quarters) == len(rows)
    for before, after in itertools.pairwise(quarters):
        assert before["margin"][1] < after["margin"][0]
    for quarter in quarters:
        low, high = quarter["margin"]
        inside = [r for r in rows if low - 1e-6 <= r["margin"] <= high + 1e-6]
        assert (quarter["n"], quarter["accuracy"]["value"]) == (len(inside), accuracy(inside))
        assert len(inside) == pytest.approx(len(rows) / 4, abs=len(rows) / 15)
    said = [1 / (1 + math.exp(-r["margin"])) for r in rows]
    error = 0.0
    for b in range(10):
        of_bin = [i for i, p in enumerate(said) if 0.5 + b / 20 <= p < 0.55 + b / 20]
        error += abs(sum(rows[i]["half"] - said[i] for i in of_bin)) / len(rows)
    assert found["calibration_error"]["value"] == pytest.approx(error, abs=1e-4)


def test_ece_is_small_where_the_scores_are_the_odds_and_its_interval_is_over_prompts() -> None:
    """Truths were drawn by the scores, so only noise is left; scores ten times too far apart are too sure."""
    groups = simulated(600)
    sure = [
        replace(g, judgments=(g.judgments[0], Judgment("reward_model", tuple(10 * (s or 0) for s in scores))))
        for g in groups
        for scores in [g.judgments[1].scores]
    ]
    fine, off = (reward_figures(x, "truth")["calibration_error"] for x in (groups, sure))
    assert fine["value"] < 0.05 < 0.08 < off["low"] < off["value"] < off["high"]
    doubled = [*groups, *(replace(g, id=f"{g.id} again") for g in groups)]
    again = reward_figures(doubled, "truth")["calibration_error"]
    assert again["value"] == fine["value"]
    # prompts drawn one by one, pair sums added up by hand
    rng = np.random.default_rng(5)
    errors = []
    sums = [bin_sums(g) for g in groups]
    for _ in range(400):
        drawn = [sums[i] for i in rng.integers(0, len(sums), len(sums))]
        errors.append(np.abs(np.sum([s for s, _ in drawn], 0)).sum() / sum(n for _, n in drawn))
    assert [fine["low"], fine["high"]] == pytest.approx(np.quantile(errors, [0.025, 0.975]).tolist(), abs=0.004)


def bin_sums(group: Group) -> tuple[np.ndarray, int]:
    """(sum of observed - predicted in each bin, number of pairs) of one group."""
    truth, scores = (j.scores for j in group.judgments)
    sums, n = np.zeros(10), 0
    for i, j in itertools.combinations(range(len(scores)), 2):
        a, b, d = truth[i], truth[j], (scores[i] or 0.0) - (scores[j] or 0.0)
        if a is not None and b is not None and a != b:
            said = 1 / (1 + math.exp(-abs(d)))
            sums[min(int((said - 0.5) * 20), 9)] += (0.5 if d == 0 else float(d * (a - b) > 0)) - said
            n += 1
    return sums, n


def test_where_the_truth_orders_nothing_there_is_little_to_say() -> None:
    found = reward_figures([marked("a", (1.0, 2.0), (1.0, 1.0)), marked("b", (1.0, 2.0), (None, None))], "truth")
    assert found == {
        "n_groups": 2,
        "n_pairs": 0,
        "against": "truth",
        "length_correlation": {"value": 1.0, "low": pytest.approx(-1.0, abs=0.02), "high": 1.0},  # of one group
        "calibration": [],
        "counted": {"length_correlation": 1},
    }


def test_a_judge_that_did_not_look_is_named() -> None:
    with pytest.raises(TropismError, match="group a has no judgment by 'people': set `against` to a judge of the"):
        reward_figures(BY_HAND, "people")


def test_an_error_that_all_pairs_share_is_not_certain() -> None:
    """Every pair is right and one apart: the error is 1 - σ(1). Groups of which all pairs are wrong may be unseen."""
    groups = [marked(str(n), (1.0, 0.0) * (1 + n % 2), (1.0, 0.0) * (1 + n % 2)) for n in range(6)]
    found = reward_figures(groups, "truth")
    assert found["n_pairs"] == 15
    error = found["calibration_error"]
    assert error["value"] == pytest.approx(1 - 1 / (1 + math.exp(-1)), abs=1e-4)
    assert 0 <= error["low"] < error["value"] <= error["high"] < 1  # the more are wrong, the nearer is 0.73
    assert found["pair_accuracy"]["value"] == 1.0 and 0.4 < found["pair_accuracy"]["low"] < 0.8
