"""Whether judgments weighed by each person's estimated reliability are better than plain mean ranks, on simulated people.

    python bench/people.py [--seeds 10] [--json]

Simulated, as nobody's true reliability is known. Each answer has a quality drawn from N(0, 1), K = 7 answers a group;
a person ranks them by quality + noise · N(0, 1), less than 0.1 apart as a tie, and a clicker at random. Of each group
three people say something. A method's accuracy is the share of pairs of answers that it orders as the quality does, a tie
counting half. The gain over the mean rank is paired by seed; intervals are over seeds.

`known` weighs by the true reliability 1 / sqrt(1 + noise²): what is left to gain. `equal` is people who are all alike:
there is nothing to gain and estimating reliability can only cost.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tropism import statistics
from tropism.feedback.aggregate import How, combined, reliabilities
from tropism.feedback.agreement import places
from tropism.types import Completion, Group, Judgment

K, EACH, TIE = 7, 3, 0.1
CLICKS = math.inf
CROWDS: dict[str, tuple[float, ...]] = {
    "equal": (0.7,) * 6,
    "three of differing reliability": (0.3, 0.8, 2.0),
    "two good, two fair, two poor": (0.3, 0.3, 0.8, 0.8, 2.0, 2.0),
    "one of five clicks": (0.6, 0.6, 0.6, 0.6, CLICKS),
    "three of six click": (0.6, 0.6, 0.6, CLICKS, CLICKS, CLICKS),
}
SIZES = (20, 100, 400)  # groups
METHODS: tuple[How, ...] = ("mean_rank", "plackett_luce", "reliability")


def judged(noises: Sequence[float], count: int, seed: int) -> tuple[np.ndarray, list[Group]]:
    """(G, K) qualities, and groups with the judgments of three people each."""
    rng = np.random.default_rng([seed, count, len(noises)])
    quality_GK = rng.normal(size=(count, K))
    answers = tuple(Completion(str(k)) for k in range(K))
    groups = []
    for number, quality_K in enumerate(quality_GK):
        said = []
        for person in rng.choice(len(noises), EACH, replace=False):
            noise = rng.normal(size=K)
            seen = noise if noises[person] == CLICKS else quality_K + noises[person] * noise
            said.append(Judgment(f"p{person}", tuple(np.floor(seen / TIE).tolist()), "ordinal"))
        groups.append(Group(str(number), (), answers, tuple(said)))
    return quality_GK, groups


def accuracy(quality_GK: np.ndarray, score_GK: np.ndarray) -> float:
    i, j = np.triu_indices(K, 1)
    same = np.sign(quality_GK[:, i] - quality_GK[:, j]) * np.sign(score_GK[:, i] - score_GK[:, j])
    return float((same.mean() + 1) / 2)


def known(noises: Sequence[float], groups: Sequence[Group]) -> np.ndarray:
    """(G, K) mean places, weighed by true reliability as `feedback/aggregate.py` weighs."""
    true = [0.0 if noise == CLICKS else 1 / math.sqrt(1 + noise**2) for noise in noises]
    weight = {f"p{i}": a / (1 - a**2) for i, a in enumerate(true)}
    return np.array([sum(-weight[j.judge] * np.array(places(j.scores), float) for j in g.judgments) for g in groups])


def trial(noises: Sequence[float], count: int, seed: int) -> dict[str, float]:
    quality_GK, groups = judged(noises, count, seed)
    found = {how: accuracy(quality_GK, np.array([j.scores for j in combined(groups, how)])) for how in METHODS}
    found["known"] = accuracy(quality_GK, known(noises, groups))
    estimated = reliabilities(groups)
    return found | {f"a_{i}": estimated.get(f"p{i}", math.nan) for i in range(len(noises))}


def rows(seeds: int) -> list[dict[str, Any]]:
    found = []
    for crowd, noises in CROWDS.items():
        for count in SIZES:
            trials = [trial(noises, count, seed) for seed in range(seeds)]
            row: dict[str, Any] = {"crowd": crowd, "groups": count}
            row |= {how: statistics.mean([t[how] for t in trials]) for how in (*METHODS, "known")}
            for how in METHODS[1:]:
                row[f"gain_{how}"] = statistics.mean([t[how] - t["mean_rank"] for t in trials])
            row["reliabilities"] = [
                round(float(np.nanmean([t[f"a_{i}"] for t in trials])), 2) for i in range(len(noises))
            ]
            found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = rows(given.seeds)
    if given.json:
        print(json.dumps(found))
        return
    print(
        f"{'':32}{'groups':>6}{'mean rank':>11}{'PL':>8}{'reliab.':>9}{'known':>8}   gain of reliability over mean rank"
    )
    for row in found:
        values = "".join(f"{100 * row[how]['value']:{w}.1f}" for how, w in zip((*METHODS, "known"), (11, 8, 9, 8)))
        gain = {end: 100 * row["gain_reliability"][end] for end in ("value", "low", "high")}
        told = f"{gain['value']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]"
        print(f"{row['crowd']:32}{row['groups']:6}{values}   {told:24} {row['reliabilities']}")


if __name__ == "__main__":
    main()
