"""Ratings against evalica's published goldens, numbers worked by hand, Fisher information and simulation."""

from __future__ import annotations

import csv
import math
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from tropism.feedback.ratings import Battle, bradley_terry, fit, next_pair, scores, suspicious, table

ARENA = Path(__file__).parents[2].parent / "shared" / "data" / "arena"
needs_data = pytest.mark.skipif(not ARENA.is_dir(), reason="../shared/data/arena is absent")
METHODS = ("average_win_rate", "bradley_terry", "counting", "eigen", "elo", "newman", "pagerank")
WINNER = {"left": "a", "right": "b", "tie": "tie"}


def read(name: str) -> list[Battle]:
    with open(ARENA / f"{name}.csv", encoding="utf-8") as file:
        return [Battle(r["left"], r["right"], WINNER[r["winner"]], r.get("worker", "")) for r in csv.DictReader(file)]


def golden(name: str, method: str) -> dict[str, float]:
    with open(ARENA / f"{name}-golden.csv", encoding="utf-8") as file:
        return {r["item"]: float(r["score"]) for r in csv.DictReader(file) if r["algorithm"] == method}


@needs_data
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["food", "llmfao"])
def test_scores_are_the_published_ones(name: str, method: str):
    wanted = golden(name, method)
    assert len(wanted) in (5, 59)
    assert scores(read(name), method) == pytest.approx(wanted, rel=1e-6)


@needs_data
@pytest.mark.parametrize("name", ["food", "llmfao"])
def test_a_rating_is_1000_plus_400_log10_of_the_golden_score(name: str):
    wanted = golden(name, "bradley_terry")
    middle = np.mean([math.log10(score) for score in wanted.values()])
    rows = {row["name"]: row["rating"] for row in bradley_terry(read(name))}
    assert rows == pytest.approx({n: 1000 + 400 * (math.log10(s) - middle) for n, s in wanted.items()}, rel=1e-6)


@needs_data
def test_counted_votes_say_the_same_as_single_ones():
    battles = read("llmfao")
    counts: dict[Battle, float] = defaultdict(float)
    for b in battles:
        counts[b._replace(voter="")] += 1
    single, counted = bradley_terry(battles), bradley_terry([b._replace(times=n) for b, n in counts.items()])
    assert [row["name"] for row in single] == [row["name"] for row in counted]
    for one, other in zip(single, counted):
        assert [*one.values()][1:] == pytest.approx([*other.values()][1:], rel=1e-9)


def test_two_models_by_hand():
    """A wins 30 of 40: t_A - t_B = ln 3, H = 40 * 3/16 = 7.5 = G, so the difference has the variance 1 / 7.5."""
    rows = bradley_terry([Battle("A", "B", "a", times=30), Battle("B", "A", "a", times=10)])
    half = 400 / math.log(10) * 1.959964 * math.sqrt(1 / 7.5) / 2  # half the difference is each one's
    assert [row["name"] for row in rows] == ["A", "B"]
    assert rows[0] == pytest.approx(
        {"rating": (up := 1000 + 200 * math.log10(3)), "low": up - half, "high": up + half, "battles": 40, "name": "A"}
    )
    assert rows[1]["rating"] == pytest.approx(1000 - 200 * math.log10(3))
    assert rows[1]["battles"] == 40


def test_ties_narrow_the_interval_of_the_sandwich():
    """20 ties and 10 wins each way: H = 40 / 4, G = 20 / 4 as a tie leaves no remainder; 40 coin flips have twice that."""
    votes = [Battle("A", "B", "tie", times=20), Battle("A", "B", "a", times=10), Battle("A", "B", "b", times=10)]
    row = bradley_terry(votes)[0]
    assert row["high"] - row["rating"] == pytest.approx(400 / math.log(10) * 1.959964 * math.sqrt(5 / 10**2) / 2)


def test_both_bad_counts_as_a_tie():
    votes = [Battle("A", "B", "a", times=3), Battle("B", "C", "a"), Battle("C", "A", "a"), Battle("A", "C", "tie")]
    bad = [b._replace(winner="bad") if b.winner == "tie" else b for b in votes]
    assert bradley_terry(votes) == bradley_terry(bad)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """150 arenas of four models and 400 votes: 95 % of the intervals hold the true rating, give or take 3 sd."""
    true = np.array([0.8, 0.3, -0.2, -0.9])
    rng = np.random.default_rng(7)
    held = total = 0
    for _ in range(150):
        pairs = rng.integers(0, 4, (400, 2))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        wins = rng.random(len(pairs)) < 1 / (1 + np.exp(true[pairs[:, 1]] - true[pairs[:, 0]]))
        rows = bradley_terry([Battle(str(i), str(j), "a" if w else "b") for (i, j), w in zip(pairs, wins)])
        for row in rows:
            held += row["low"] <= 1000 + 400 / math.log(10) * true[int(row["name"])] <= row["high"]
            total += 1
    assert held / total == pytest.approx(0.95, abs=3 * math.sqrt(0.05 * 0.95 / 150))


@pytest.mark.parametrize(
    "votes",
    [
        [],
        [Battle("A", "B", "a")],
        [Battle("A", "B", "tie")],
        [Battle("A", "B", "a", times=50)],
        [Battle("A", "B", "a"), Battle("B", "A", "a"), Battle("C", "D", "tie")],
    ],
)
def test_few_votes_have_finite_ratings_and_wide_intervals(votes: list[Battle]):
    rows = bradley_terry(votes, ["A", "B", "C"])
    assert not fit(votes, ["A", "B", "C"]).settled
    for row in rows:
        assert math.isfinite(row["rating"]) and 100 < row["high"] - row["rating"] < 2000
    if votes and votes[0].winner == "a" and len(votes) == 1:
        assert rows[0]["name"] == "A" and rows[-1]["name"] == "B"


def test_a_model_alone_has_the_rating_in_the_middle():
    assert bradley_terry([], ["A"]) == [{"name": "A", "rating": 1000.0, "low": 1000.0, "high": 1000.0, "battles": 0}]
    assert bradley_terry([]) == []


def test_the_table_of_pairs_by_hand():
    votes = [Battle("A", "B", "a"), Battle("B", "A", "a"), Battle("B", "A", "b"), Battle("B", "C", "bad", times=2)]
    assert table(votes, ["A", "B", "C"]).tolist() == [[0, 2, 0], [1, 0, 1], [0, 1, 0]]


def test_next_is_the_pair_known_least():
    """A-B 40 votes, B-C 10, all even: by the rule of series 4/40, 4/10 and their sum for A-C, the largest."""
    votes = [Battle(a, b, w, times=n) for a, b, n in (("A", "B", 20), ("B", "C", 5)) for w in "ab"]
    drawn = [next_pair(votes, ["A", "B", "C"], random.Random(seed)) for seed in range(200)]
    assert {*map(frozenset, drawn)} == {frozenset("AC")}
    assert 70 < sum(pair == ("A", "C") for pair in drawn) < 130  # the sides are drawn


def test_a_new_model_is_asked_about_first_and_one_that_left_no_more():
    votes = [Battle("A", "B", w, times=20) for w in "ab"] + [Battle("A", "gone", "a")]
    drawn = [next_pair(votes, ["A", "B", "new"], random.Random(seed)) for seed in range(20)]
    assert all("new" in pair for pair in drawn)


def test_asking_where_it_is_least_sure_makes_ratings_surer_than_asking_evenly():
    """Six models of which one is behind by 300 votes: 100 more by `next_pair` against 100 over all pairs in turn."""
    names = list("ABCDEF")
    start = [Battle(a, b, w, times=10) for a in names[:5] for b in names[:5] if a < b for w in "ab"]
    chosen, turns = list(start), list(start)
    pairs = [(a, b) for a in names for b in names if a < b]
    for k in range(100):
        a, b = next_pair(chosen, names, random.Random(k))
        chosen.append(Battle(a, b, "ab"[k % 2]))
        turns.append(Battle(*pairs[k % 15], "ab"[k // 15 % 2]))

    def widest(votes: list[Battle]) -> float:
        return max(row["high"] - row["low"] for row in bradley_terry(votes))

    assert widest(chosen) < 0.8 * widest(turns)


def voters(kind: str, people: int, seed: int) -> list[Battle]:
    """150 honest votes a pair of three models, then 60 votes of each of `people` who are honest, random or contrary."""
    true = {"A": 1.0, "B": 0.0, "C": -1.0}
    rng = random.Random(seed)

    def vote(voter: str, how: str) -> Battle:
        a, b = rng.sample("ABC", 2)
        wins = rng.random() < {"random": 0.5}.get(how, 1 / (1 + math.exp(true[b] - true[a])))
        return Battle(a, b, "a" if wins != (how == "contrary") else "b", voter)

    crowd = [vote(f"crowd{k % 45}", "honest") for k in range(450)]
    return crowd + [vote(f"{kind}{k % people}", kind) for k in range(60 * people)]


def test_who_votes_at_random_or_against_all_others_is_found():
    for kind, least in (("random", 0.6), ("contrary", 1.0)):
        found = [row["suspicious"] for s in range(30) for row in suspicious(voters(kind, 1, s)) if kind in row["name"]]
        assert len(found) == 30 and np.mean(found) >= least


def test_who_votes_as_others_do_is_wronged_in_one_of_twenty_cases_at_most():
    found = [
        row["suspicious"] for s in range(40) for row in suspicious(voters("honest", 5, s)) if "honest" in row["name"]
    ]
    assert len(found) == 200 and np.mean(found) <= 0.05


def test_evidence_by_hand():
    """Others said A 7 times of A-B, never B: the first B counts (7 + 2) / (2 * 1), the next (8 + 2) / (2 * 2), …"""
    votes = [Battle("A", "B", "a", f"v{k}") for k in range(7)] + [Battle("B", "A", "a", "odd") for _ in range(5)]
    votes.insert(9, Battle("B", "A", "tie", "odd"))
    by_hand = 9 / 2 * 10 / 4 * 11 / 6 * 12 / 8 * 13 / 10
    assert suspicious(votes) == [{"name": "odd", "votes": 5, "evidence": pytest.approx(by_hand), "suspicious": True}]


@needs_data
def test_real_voters_are_mostly_honest():
    """124 workers: those of fewer than 5 votes are not judged, and few of the others stand out."""
    rows = suspicious(read("llmfao"))
    assert 100 < len(rows) <= 124 and sum(row["suspicious"] for row in rows) < 0.2 * len(rows)
