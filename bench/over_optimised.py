"""How often `stop_when_over_optimised` ends a run whose true quality has not fallen, and how late it ends one that has.

    python bench/over_optimised.py [--trials 1000]

Simulated, as nothing else gives thousands of runs: the true quality of 4 samples of each prompt of a probe, in [0, 1] as
the phrasebook gives it (a right answer 0.8 to 1, a wrong one 0 to 0.3). The log-odds of a right answer are 0.6 and a
difficulty of the prompt (standard deviation 1.5). At each look all samples are new, and a tenth of the prompts get a new
difficulty: the policy changes, its mean quality does not. The learned reward rises at each look, so that nothing but the
truth speaks against a stop.

`by n looks` is the share of runs ended by then: by mistake, as nothing has fallen. `every look at 3 errors` is the rule of
the report, asked as often. `fall` is for runs whose quality falls by 0.02 a look after the third: by how much it had
fallen, on average, when the run was ended (of 40 looks).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np

from tropism.tensors.looks import Look, fall, fall_so_far

EASY, PROMPT = 0.6, 1.5  # log-odds
SAMPLES, NEW = 4, 0.1
LOOKS = (5, 10, 20, 40)
STEP, BEST = 0.02, 3  # a real fall: a look, after so many
Rule = Callable[[Sequence[Look]], object]


def at_three(looks: Sequence[Look]) -> object:
    """The rule of the report."""
    return fall([[look] for look in looks])


def ended(rng: np.random.Generator, prompts: int, looks: int, rule: Rule, step: float = 0.0) -> int:
    """The number of the look at which a run is ended; 0 if it goes to its end. The quality falls by `step` a look."""
    seen: list[Look] = []
    odds_P = EASY + PROMPT * rng.normal(size=prompts)
    for number in range(1, looks + 1):
        new_P = rng.random(prompts) < NEW
        odds_P = np.where(new_P, EASY + PROMPT * rng.normal(size=prompts), odds_P)
        right_PK = rng.random((prompts, SAMPLES)) < 1 / (1 + np.exp(-odds_P[:, None]))
        quality_PK = np.where(right_PK, 0.8 + 0.2 * rng.random(right_PK.shape), 0.3 * rng.random(right_PK.shape))
        truth_P = quality_PK.mean(1) - step * max(number - BEST, 0)
        seen.append(Look(number, number, np.full(prompts, float(number)), truth_P))
        if rule(seen):
            return number
    return 0


def rates(prompts: int, rule: Rule, trials: int, looks: Sequence[int] = LOOKS) -> list[float]:
    """The share of runs that are ended by each of these numbers of looks, though nothing has fallen."""
    rng = np.random.default_rng(prompts)
    ends = np.array([ended(rng, prompts, max(looks), rule) for _ in range(trials)])
    return [float(((ends > 0) & (ends <= n)).mean()) for n in looks]


def fallen(prompts: int, rule: Rule, trials: int) -> float:
    """By how much the quality had fallen, on average, when runs were ended in which it does fall."""
    rng = np.random.default_rng(prompts)
    ends = [ended(rng, prompts, max(LOOKS), rule, STEP) or max(LOOKS) for _ in range(trials)]
    return float(np.mean([STEP * max(end - BEST, 0) for end in ends]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    for name, rule in (("every look at 3 errors", at_three), ("fall_so_far", fall_so_far)):
        for prompts in (10, 20, 50, 200):
            shares = "  ".join(f"{n} looks {rate:.3f}" for n, rate in zip(LOOKS, rates(prompts, rule, trials)))
            print(
                f"{name:23} {prompts:3} prompts: by {shares}  fall {fallen(prompts, rule, trials // 5):.2f}", flush=True
            )


if __name__ == "__main__":
    main()
