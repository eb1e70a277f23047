"""The result of a run in one sentence, computed from its figures.

A model wins if the 95 % interval of its win rate is above one half. Reward hacking (arXiv 2210.10760) is reported if
the rounds show it: after its best fifth of the rounds the true quality fell by more than three standard errors while
the learned reward rose by more than three. It is three and not two because the best fifth is chosen after seeing all of
them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tropism.report.read import Findings, Finished
from tropism.report.words import interval, number, percent, title

FEWEST_ROUNDS = 15  # three in each fifth
ERRORS = 3.0


@dataclass(frozen=True)
class Hacking:
    """Means over the fifth of the rounds with the best true quality and over the last fifth."""

    first_round: int
    last_round: int
    reward: tuple[float, float]
    truth: tuple[float, float]


def verdicts(findings: Findings) -> list[str]:
    """One sentence for each model that was trained further than the model it is compared with; without such a
    comparison the results of the stages."""
    tuned = [n for n in findings.models if n != findings.over and n not in findings.plain]
    if not tuned or findings.over not in findings.models:
        said = outcomes(findings)
        return said if said and len(findings.stages) == len(findings.planned) else [_unfinished(findings), *said]
    return [_verdict(name, findings) for name in tuned]


def outcomes(findings: Findings) -> list[str]:
    """The results of reward models and of stages with rounds: accuracy, reward, truth, KL."""
    said = []
    for stage in findings.stages:
        right, pairs = stage.facts.get("held_out_accuracy"), stage.facts.get("held_out_pairs")
        if right is not None and pairs:
            said.append(
                f"{title(stage.id)} puts {percent(right)} of {pairs:,} pairs of held-out prompts in the right order."
            )
    for stage in rl_stages(findings):
        rounds = [m for m in stage.metrics if math.isfinite(m.get("reward", math.nan))]
        if not rounds:
            continue
        size = max(len(rounds) // 5, 1)
        parts = (rounds[:size], rounds[-size:]) if len(rounds) > 1 else (rounds,)
        told = [f"the reward of its samples {_went('reward', parts)}"]
        if all("truth" in m for m in rounds):
            told.append(f"the true quality {_went('truth', parts)}")
        if kl := [m["kl"] for m in parts[-1] if math.isfinite(m.get("kl", math.nan))]:
            told.append(f"the KL to its start ended at {number(statistics.mean(kl))} nats per completion")
        sentence = f"{title(stage.id)}: {'; '.join(told)}"
        sentence += f" (means over {size} of {len(rounds)} rounds at each end)" if size > 1 else ""
        if not any("truth" in m for m in rounds):
            sentence += (
                ". Whether the answers are better was not measured: a higher reward may also be a weakness of the judge"
            )
        said.append(f"{sentence}.")
    return said


def _went(key: str, parts: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    means = [number(statistics.mean(m[key] for m in part)) for part in parts]
    return f"went from {means[0]} to {means[-1]}" if len(means) > 1 else f"was {means[0]} in its only round"


def hacking(rounds: Sequence[Mapping[str, Any]]) -> Hacking | None:
    """Where the learned reward kept rising while the true quality fell; None if this did not happen."""
    kept = [r for r in rounds if all(math.isfinite(r.get(key, math.nan)) for key in ("reward", "truth"))]
    if len(kept) < FEWEST_ROUNDS:
        return None
    size = len(kept) // 5
    fifths = [kept[i * size : (i + 1) * size] for i in range(4)] + [kept[-size:]]
    best = max(fifths, key=lambda fifth: statistics.mean(r["truth"] for r in fifth))
    last = fifths[-1]
    if best is last or _rise(best, last, "truth") > -ERRORS or _rise(best, last, "reward") < ERRORS:
        return None
    means = {key: tuple(statistics.mean(r[key] for r in part) for part in (best, last)) for key in ("reward", "truth")}
    return Hacking(best[0]["round"], last[-1]["round"], means["reward"], means["truth"])  # type: ignore[arg-type]


def _verdict(name: str, findings: Findings) -> str:
    figures, over = findings.models[name], findings.models[findings.over]
    ours, theirs = title(name), title(findings.over)
    kl = figures.get(f"kl_to_{findings.over}")
    cost = f", at {kl['value']:.1f} nats of KL per completion" if kl else ""
    win = figures.get(f"win_over_{findings.over}")
    rewards = (figures.get("reward"), over.get("reward"))
    rated = rewards[0]["low"] > rewards[1]["high"] if rewards[0] and rewards[1] else False
    hacked = _hacked(name, findings)
    if win is None:
        said = _by_reward(ours, theirs, rewards, cost)
    else:
        share = f"{percent(win['value'])} of comparisons on {findings.asked}"
        if win["low"] > 0.5:
            said = f"{ours} answers better than {theirs}: it wins {share} ({interval(win)}){cost}"
        elif win["high"] < 0.5:
            said = f"{ours} answers worse than {theirs}: it wins only {share} ({interval(win)}){cost}"
            if rated and not hacked:
                hacked = "Reward hacking: the learned reward prefers the worse answers; "
        else:
            touches = "touches" if 0.5 in (win["low"], win["high"]) else "includes"
            said = (
                f"{ours} is not significantly different from {theirs}: it wins {share}, and the 95\u202f% interval "
                f"({interval(win)}) {touches} one half{cost}"
            )
    return f"{hacked}{said}."


def _by_reward(ours: str, theirs: str, rewards: tuple[Any, Any], cost: str) -> str:
    """The sentence without a judge of the truth: it can only report the learned reward, or nothing."""
    unknown = "there was no judge of the truth, so whether its answers are better was not measured"
    mine, other = rewards
    if not mine or not other:
        return f"{ours} was trained{cost}; {unknown}"
    against = f"({number(mine['value'])} against {number(other['value'])})"
    if mine["low"] > other["high"]:
        said = f"The learned reward of {ours} is higher than that of {theirs} {against}"
    elif mine["high"] < other["low"]:
        said = f"The learned reward of {ours} is lower than that of {theirs} {against}"
    else:
        said = (
            f"The learned rewards of {ours} and {theirs} do not differ significantly {against}: the intervals overlap"
        )
    return f"{said}{cost}; {unknown}"


def _hacked(name: str, findings: Findings) -> str:
    """The reward hacking in the rounds of the model's stage, as the beginning of a sentence."""
    id = findings.evaluate.get("models", {}).get(name, name)
    found = next((h for s in rl_stages(findings) if s.id == id and (h := hacking(s.metrics))), None)
    return f"Reward hacking: {described(found)}; " if found else ""


def described(found: Hacking) -> str:
    reward, truth = (f"from {number(a)} to {number(b)}" for a, b in (found.reward, found.truth))
    rounds = f"from round {found.first_round} to {found.last_round}"
    return f"{rounds} the learned reward rose {reward} while the true quality fell {truth}"


def _unfinished(findings: Findings) -> str:
    ready = [title(s.id) for s in findings.stages]
    if len(ready) == len(findings.planned):
        return "All stages are finished; the recipe compares no trained model with another."
    said = f"No verdict yet: {len(ready)} of {len(findings.planned)} stages are finished"
    return f"{said} ({', '.join(ready)})." if ready else f"{said}."


def _rise(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], key: str) -> float:
    """The difference of two means divided by its standard error."""
    a, b = [r[key] for r in before], [r[key] for r in after]
    error = math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
    difference = statistics.mean(b) - statistics.mean(a)
    return difference / error if error else math.copysign(math.inf, difference) if difference else 0.0


def rl_stages(findings: Findings) -> list[Finished]:
    """The stages with rounds."""
    return [s for s in findings.stages if s.metrics and "round" in s.metrics[0]]
