"""How often `tropism compare` tells two equal methods apart at p < 0.05, and how often it finds a real difference.

    python bench/false_positives.py [--trials 2000] [--json]

Simulated, as nothing else gives thousands of equal methods: two methods with 300 prompts in common and 4 samples of
each, qualities in [0, 1] as the phrasebook gives them (a right answer 0.8 to 1, a wrong one 0 to 0.3). The log-odds of a
right answer add a difficulty of the prompt (standard deviation 1.5), what the method makes of the prompt (0.5, the same
for all its seeds), what the seed makes of it (0.3), and an effect of the seed, so large that the mean quality varies from
seed to seed by `deviation`. With the prompts drawn alone the difference of two seeds has a standard error of 0.014.

`rate` is the share of trials with p < 0.05 where the methods are equal; `power_d` where one is better by d on average.
With one seed p is over prompts only: its rate says how far it is from speaking of seeds.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import numpy as np

from tropism.report.comparison import Look, Method, table

PROMPTS, SAMPLES = 300, 4
SEEDS = ((1, 1), (3, 3), (1, 3))
DEVIATIONS = (0.0, 0.02, 0.04)
DIFFERENCES = (0.0, 0.03, 0.05)
EASY, PROMPT, METHOD, SEED = 0.6, 1.5, 0.5, 0.3  # log-odds
GAIN = 0.75  # mean quality of a right answer, 0.9, less that of a wrong one, 0.15


def method(
    rng: np.random.Generator, name: str, base_P: np.ndarray, seeds: int, deviation: float, more: float
) -> Method:
    """A method looked at once: `more` is added to its mean quality."""
    per_quality = _odds_per_quality()
    seed_S1 = (deviation * rng.normal(size=(seeds, 1)) + more) * per_quality
    odds_SP = base_P + METHOD * rng.normal(size=PROMPTS) + SEED * rng.normal(size=(seeds, PROMPTS)) + seed_S1
    right_SPK = rng.random((seeds, PROMPTS, SAMPLES)) < _sigmoid(odds_SP)[..., None]
    spread_SPK = rng.random(right_SPK.shape)
    quality_SP = np.where(right_SPK, 0.8 + 0.2 * spread_SPK, 0.3 * spread_SPK).mean(-1)
    return Method(name, tuple((Look(1.0, 1.0, row, row),) for row in quality_SP))


def found(seeds: tuple[int, int], deviation: float, difference: float, trials: int) -> tuple[float, str]:
    """The share of trials with p < 0.05, and what p is over."""
    rng = np.random.default_rng([*seeds, round(1000 * deviation), round(1000 * difference)])
    hits, over = 0, ""
    for _ in range(trials):
        base_P = EASY + PROMPT * rng.normal(size=PROMPTS)
        both = [method(rng, n, base_P, k, deviation, d) for n, k, d in zip("ab", seeds, (0.0, difference))]
        *_, last = table(both, "kl", 1.0).values()
        hits += last["behind_best"]["p"] < 0.05
        over = last["behind_best"].get("over", "")
    return hits / trials, over


def rows(trials: int) -> list[dict[str, Any]]:
    said = []
    for seeds in SEEDS:
        for deviation in DEVIATIONS:
            shares = [found(seeds, deviation, difference, trials) for difference in DIFFERENCES]
            powers = {f"power_{d}": share for d, (share, _) in zip(DIFFERENCES[1:], shares[1:])}
            said.append({"seeds": seeds, "deviation": deviation, "rate": shares[0][0], **powers, "over": shares[0][1]})
    return said


def _odds_per_quality() -> float:
    """Log-odds that move the mean quality by 1, at the prompts there are."""
    at = np.linspace(-4, 4, 801)  # standard deviations
    right, weight = _sigmoid(EASY + math.hypot(PROMPT, METHOD, SEED) * at), np.exp(-(at**2) / 2)
    return float(weight.sum() / (GAIN * (weight * right * (1 - right)).sum()))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    measured = rows(given.trials)
    if given.json:
        print(json.dumps(measured))
        return
    print("seeds    deviation   rate   power 0.03   power 0.05   p is over")
    for row in measured:
        a, b = row["seeds"]
        shares = f"{row['rate']:.3f}   {row['power_0.03']:10.3f}   {row['power_0.05']:10.3f}"
        print(f"{a} and {b}   {row['deviation']:9.2f}  {shares}   {row['over']}")


if __name__ == "__main__":
    main()
