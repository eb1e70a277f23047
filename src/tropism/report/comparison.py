"""Methods compared: every policy that was looked at while it was trained, at equal KL and at equal tokens.

A look (stages/_probe.py) is a policy's learned reward, true quality and KL on prompts that nothing was trained on, with
the tokens spent until then. The figures of a method at a level of KL or of tokens lie on the straight line between its
two looks around it, prompt by prompt, so that differences between methods are paired by prompt. Intervals and p-values
come from one bootstrap that draws prompts and seeds anew: the same prompts for every method, each method's seeds on
their own. The level is the largest that every seed of every method reached. A prompt counts where every seed has a score
for it. Left out: a correction of the p-values for their number.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tropism.report.read import Findings, Finished

DRAWS = 2000
ERRORS = 3.0  # standard errors: the best look is chosen by looking
PROMPTS = 10  # with fewer, a standard error is itself too uncertain
KEYS = ("reward", "truth")
Level = Literal["kl", "spent"]


@dataclass(frozen=True)
class Look:
    """One moment of one policy; arrays hold a number for each prompt, NaN where nothing was scored."""

    spent: float
    kl: float
    reward: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class Method:
    """The looks of each seed, in order. `at_answers` says that its tokens are paid at every answer, not once. `start` is
    where it began and how it was looked at: methods can be compared where that is the same, and their learned rewards
    where `judge` is."""

    name: str
    seeds: tuple[tuple[Look, ...], ...]
    at_answers: bool = False
    start: str = ""
    judge: str = ""


def methods(findings: Findings) -> list[Method]:
    """The stages that were looked at; those that differ in nothing but their number (`ppo-1`, `ppo-2`) are the seeds of
    one method."""
    found: dict[str, list[tuple[Finished, tuple[Look, ...]]]] = {}
    for stage in findings.stages:
        if looks := _looks(stage):
            found.setdefault(_name(stage, findings.stages), []).append((stage, looks))
    return [_method(name, *zip(*several)) for name, several in found.items()]


def comparable(found: Sequence[Method]) -> tuple[list[Method], list[str]]:
    """The methods that began where most did and were looked at as most were; the names of the others."""
    usual = _most(m.start for m in found)
    return [m for m in found if m.start == usual], [m.name for m in found if m.start != usual]


def compare(found: Sequence[Method], left_out: Sequence[str] = ()) -> dict[str, Any]:
    """Everything the comparison says, as JSON: curves, the tables at equal KL and at equal tokens, over-optimisation."""
    trained = [m for m in found if not m.at_answers]
    first = {key: _figure(np.stack([getattr(seed[0], key) for seed in found[0].seeds])) for key in KEYS}
    report: dict[str, Any] = {"start": {**first, "prompts": len(found[0].seeds[0][0].truth)}}
    levels: tuple[tuple[Level, Sequence[Method]], ...] = (("kl", found), ("spent", trained))
    for by, which in levels:
        if len(which) > 1 and (level := _level(which, by)) > 0 and len(rows := table(which, by, level)) > 1:
            report[f"equal_{by}"] = {"level": round(level, 4), "methods": rows}
    report["methods"] = {
        m.name: {
            "seeds": len(m.seeds),
            "at_answers": m.at_answers,
            "curve": curve(m),
            "over_optimises": optimised_too_far(m),
        }
        for m in found
    }
    usual = _most(m.judge for m in found)
    return {**report, "other_reward": [m.name for m in found if m.judge != usual], "left_out": list(left_out)}


def curve(method: Method) -> list[dict[str, Any]]:
    """Look by look the means over seeds, with intervals for reward and truth."""
    rows = []
    for looks in zip(*method.seeds):
        figures = {key: _figure(np.stack([getattr(look, key) for look in looks])) for key in KEYS}
        if all(figures.values()):
            rows.append({"spent": round(_mean(looks, "spent")), "kl": round(_mean(looks, "kl"), 4), **figures})
    return rows


def table(found: Sequence[Method], by: Level, level: float) -> dict[str, Any]:
    """For each method, the best first, its figures at the level and its true quality against the start's and the best's.
    A method without a prompt whose truth every seed knows is left out."""
    at = {m.name: {key: _at(m, by, level, key) for key in KEYS} for m in found}
    means = {name: float(known.mean()) for name, v in at.items() if (known := _known(v["truth"])[0]).size}
    start = np.stack([seed[0].truth for seed in found[0].seeds])
    rows: dict[str, Any] = {}
    for name in sorted(means, key=lambda name: -means[name]):
        values = at[name]
        row = {key: _figure(values[key]) for key in KEYS}
        row["over_start"] = _difference(values["truth"], start)
        if rows:
            row["behind_best"] = _difference(values["truth"], at[next(iter(rows))]["truth"])
        rows[name] = {key: figure for key, figure in row.items() if figure}
    return rows


def optimised_too_far(method: Method) -> dict[str, float] | None:
    """Where the true quality was best, if since then it fell by more than three standard errors of the paired difference
    while the learned reward did not fall; None if that is not seen."""
    moments = list(zip(*method.seeds))
    mean = {key: np.array([np.mean([getattr(x, key) for x in looks], axis=0) for looks in moments]) for key in KEYS}
    quality = [float(row[np.isfinite(row)].mean()) if np.isfinite(row).any() else -math.inf for row in mean["truth"]]
    best = int(np.argmax(quality))
    if method.at_answers or _errors(mean["truth"][-1] - mean["truth"][best]) > -ERRORS:
        return None
    if _errors(mean["reward"][-1] - mean["reward"][best]) < -ERRORS:
        return None
    said = {
        f"{key}_{when}": round(float(np.nanmean(mean[key][i])), 4)
        for key in KEYS[::-1]
        for when, i in (("best", best), ("last", -1))
    }
    return {"kl": round(_mean(moments[best], "kl"), 4), "spent": round(_mean(moments[best], "spent")), **said}


def _name(stage: Finished, stages: Sequence[Finished]) -> str:
    """The method of a stage: its id without the number of its seed."""
    if not (numbered := re.fullmatch(r"(.+)-\d+", stage.id)):
        return stage.id
    name = numbered[1]
    alike = [s.fields == stage.fields for s in stages if re.fullmatch(re.escape(name) + r"-\d+", s.id)]
    return name if all(alike) and all(s.id != name for s in stages) else stage.id


def _method(name: str, stages: Sequence[Finished], seeds: Sequence[tuple[Look, ...]]) -> Method:
    """How many samples a prompt were drawn does not matter to whether methods can be compared."""
    fields = stages[0].fields
    probe: Mapping[str, Any] = fields.get("probe") or fields
    sampling = {k: v for k, v in (probe.get("sampling") or {}).items() if k not in ("n", "seed")}
    start = json.dumps([fields.get("policy"), probe.get("prompts"), probe.get("truth"), sampling], sort_keys=True)
    return Method(name, tuple(seeds), stages[0].kind == "best_of_n", start, json.dumps(probe.get("judge")))


def _most(values: Iterable[str]) -> str:
    return next((value for value, _ in Counter(values).most_common(1)), "")


def _looks(stage: Finished) -> tuple[Look, ...]:
    """The looks of a stage; one without KL, or at which nothing was scored, is none."""
    found = []
    for line in stage.metrics:
        if not set(KEYS) <= line.get("by_prompt", {}).keys():
            continue
        scored = [np.array([math.nan if x is None else x for x in line["by_prompt"][key]], float) for key in KEYS]
        if math.isfinite(line["probe_kl"]) and all(np.isfinite(x).any() for x in scored):
            found.append(Look(float(line["spent"]), max(float(line["probe_kl"]), 0.0), *scored))
    return tuple(found)


def _mean(looks: Sequence[Look], what: Level) -> float:
    return float(np.mean([getattr(look, what) for look in looks]))


def _level(found: Sequence[Method], by: Level) -> float:
    """The largest level that every seed of every method reached."""
    return min(max(getattr(look, by) for look in seed) for m in found for seed in m.seeds)


def _at(method: Method, by: Level, level: float, key: str) -> np.ndarray:
    """(seeds, prompts): the value at the level, where each seed first got there."""
    rows = []
    for seed in method.seeds:
        i = next(i for i, look in enumerate(seed) if getattr(look, by) >= level)
        before, after = seed[max(i - 1, 0)], seed[i]
        if i == 0 or getattr(after, by) == level:  # a prompt without a score before does not matter here
            rows.append(getattr(after, key))
            continue
        share = (level - getattr(before, by)) / (getattr(after, by) - getattr(before, by))
        rows.append((1 - share) * getattr(before, key) + share * getattr(after, key))
    return np.stack(rows)


def _known(*values: np.ndarray) -> list[np.ndarray]:
    """The same (seeds, prompts), with the prompts that have a score in all of them."""
    known = np.isfinite(np.concatenate(values)).all(axis=0)
    return [v[:, known] for v in values]


@functools.lru_cache(maxsize=64)
def _weights(prompts: int) -> np.ndarray:
    """(DRAWS, prompts): how often each prompt was drawn, as a share. The same at every call."""
    return np.random.default_rng(0).multinomial(prompts, np.full(prompts, 1 / prompts), DRAWS) / prompts


def _drawn(values: np.ndarray, stream: int = 1) -> np.ndarray:
    """(DRAWS,) means of (seeds, prompts) with both drawn anew, the seeds from a `stream` of their own."""
    seeds = len(values)
    which = np.random.default_rng([0, stream]).integers(0, seeds, (DRAWS, seeds))
    by_seed = np.stack([_weights(values.shape[1]) @ row for row in values], axis=1)  # (DRAWS, seeds)
    return np.take_along_axis(by_seed, which, axis=1).mean(axis=1).round(12)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float] | None:
    """Ours minus theirs, paired by prompt, with a two-sided bootstrap p-value; None if they share no prompt."""
    ours, theirs = _known(ours, theirs)
    if not ours.size:
        return None
    drawn = _drawn(ours, 1) - _drawn(theirs, 2)
    below, above = float((drawn <= 0).mean()), float((drawn >= 0).mean())
    p = min(1.0, max(2 * min(below, above), 2 / DRAWS))
    return {**_interval(float(ours.mean() - theirs.mean()), drawn), "p": round(p, 4)}


def _errors(difference: np.ndarray) -> float:
    """The mean of a paired difference in its own standard errors; 0 if there are too few prompts to tell."""
    kept = difference[np.isfinite(difference)]
    if len(kept) < PROMPTS or not kept.any():
        return 0.0
    spread = float(kept.std(ddof=1)) / math.sqrt(len(kept))
    return float(kept.mean()) / spread if spread else math.copysign(math.inf, kept.mean())


def _figure(values: np.ndarray) -> dict[str, float] | None:
    """The mean of (seeds, prompts) with its interval; None if no prompt has a score in every seed."""
    (known,) = _known(values)
    return _interval(float(known.mean()), _drawn(known)) if known.size else None


def _interval(value: float, drawn: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
