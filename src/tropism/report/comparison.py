"""The comparison of methods: every policy with looks (evaluations during training), at equal KL and at equal tokens.

A look (stages/_probe.py) is a policy's learned reward, true quality and KL on prompts that nothing was trained on, with
the tokens spent until then. The figures of a method at a level of KL or of tokens are interpolated for each prompt
between the two looks around it, so that differences between methods are paired by prompt. Intervals and p-values are
those of `statistics.py`: prompts and seeds crossed. If a trained method has only one seed, they are over prompts only,
and this is stated; the start and a search are one model each, whose samples vary with the prompts. The level is the
largest that every seed of every method reached, and is taken as given. A prompt counts if every seed has a score for
it. All results are for this start, this reward model and this truth. Left out: a correction for multiple comparisons.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from tropism.report.read import Findings, Finished
from tropism.statistics import Estimate, Range, bounds, crossed
from tropism.tensors.looks import ERRORS, KEYS, Look, fall, read_look

PROMPTS_ONLY, BOTH = "prompts", "prompts and seeds"  # what an interval covers
Level = Literal["kl", "spent"]


@dataclass(frozen=True)
class Method:
    """The looks of each seed, in order. `at_answers`: it costs its tokens at every answer, not once. `start` says where
    it began and how it was evaluated: methods can be compared if this is the same, and their learned rewards if `judge`
    is the same too."""

    name: str
    seeds: tuple[tuple[Look, ...], ...]
    at_answers: bool = False
    start: str = ""
    judge: str = ""

    @property
    def one_seed(self) -> bool:
        """Whether it was trained only once, so that nothing is known about other seeds."""
        return len(self.seeds) == 1 and not self.at_answers


def methods(findings: Findings) -> list[Method]:
    """The methods of all stages with looks; stages that differ only in their number (`ppo-1`, `ppo-2`) are seeds of one
    method."""
    found: dict[str, list[tuple[Finished, tuple[Look, ...]]]] = {}
    for stage in findings.stages:
        if looks := _looks(stage):
            found.setdefault(_name(stage, findings.stages), []).append((stage, looks))
    return [_method(name, *zip(*several)) for name, several in found.items()]


def comparable(found: Sequence[Method]) -> tuple[list[Method], list[str]]:
    """The methods with the most common start and way of evaluation; the names of the others."""
    usual = _most(m.start for m in found)
    return [m for m in found if m.start == usual], [m.name for m in found if m.start != usual]


def compare(found: Sequence[Method], left_out: Sequence[str] = ()) -> dict[str, Any]:
    """The whole comparison as JSON: curves, the tables at equal KL and at equal tokens, over-optimisation."""
    trained = [m for m in found if not m.at_answers]
    first = {key: _figure([_start(found, key)], _within(found, found[0], key), found[0]) for key in KEYS}
    report: dict[str, Any] = {"start": {**first, "prompts": len(found[0].seeds[0][0].truth)}}
    levels: tuple[tuple[Level, Sequence[Method]], ...] = (("kl", found), ("spent", trained))
    for by, which in levels:
        if len(which) > 1 and (level := _level(which, by)) > 0 and len(rows := table(which, by, level)) > 1:
            report[f"equal_{by}"] = {"level": round(level, 4), "methods": rows}
    report["methods"] = {
        m.name: {
            "seeds": len(m.seeds),
            "at_answers": m.at_answers,
            "curve": curve(found, m),
            "over_optimises": optimised_too_far(m),
        }
        for m in found
    }
    usual = _most(m.judge for m in found)
    return {**report, "other_reward": [m.name for m in found if m.judge != usual], "left_out": list(left_out)}


def curve(found: Sequence[Method], method: Method) -> list[dict[str, Any]]:
    """For each moment the means over the seeds that got so far, with intervals for reward and truth."""
    rows = []
    for looks in _moments(method):
        figures = {
            key: _figure([getattr(look, key) for look in looks], _within(found, method, key), method) for key in KEYS
        }
        if all(figures.values()):
            means = {"spent": round(_mean(looks, "spent")), "kl": round(_mean(looks, "kl"), 4)}
            rows.append({**means, "seeds": len(looks), **figures})
    return rows


def table(found: Sequence[Method], by: Level, level: float) -> dict[str, Any]:
    """For each method, best first, its figures at the level and its true quality compared with the start and the best.
    A method is left out if there is no prompt for which every seed has a truth."""
    at = {m.name: {key: _at(m, by, level, key) for key in KEYS} for m in found}
    named = {m.name: m for m in found}
    means = {name: float(known.mean()) for name, v in at.items() if (known := _known(v["truth"])[0]).size}
    within = _within(found, found[0], "truth")
    rows: dict[str, Any] = {}
    for name in sorted(means, key=lambda name: -means[name]):
        method, truth = named[name], at[name]["truth"]
        row = {key: _figure(at[name][key], _within(found, method, key), method) for key in KEYS}
        row["over_start"] = _difference(truth, [_start(found, "truth")], within, method)
        if rows:
            best = next(iter(rows))
            row["behind_best"] = _difference(truth, at[best]["truth"], within, method, named[best])
        rows[name] = {key: figure for key, figure in row.items() if figure}
    return rows


def optimised_too_far(method: Method) -> dict[str, Any] | None:
    """Where the true quality was best, if since then it fell by more than three standard errors of the paired
    difference while the learned reward did not fall; None otherwise.

    Each seed is followed to its own end. `seeds` are all of them if their mean fell; otherwise the numbers of those
    that fell on their own, and then the figures are theirs. It is a statement about these runs: the errors are over
    prompts. With more tests, more standard errors are needed (Bonferroni), so that more seeds do not give more false
    alarms."""
    if method.at_answers:
        return None
    tests = len(method.seeds) + 1 if len(method.seeds) > 1 else 1
    errors = -NormalDist().inv_cdf(NormalDist().cdf(-ERRORS) / tests)
    whole = [looks for looks in _moments(method) if len(looks) == len(method.seeds)]
    if far := fall([*whole, [seed[-1] for seed in method.seeds]], errors):
        return {**far, "seeds": [*range(1, len(method.seeds) + 1)]}
    alone = {n: far for n, seed in enumerate(method.seeds, 1) if (far := fall([[look] for look in seed], errors))}
    if not alone:
        return None
    means = {key: round(float(np.mean([far[key] for far in alone.values()])), 4) for key in next(iter(alone.values()))}
    return {**means, "seeds": [*alone]}


def _name(stage: Finished, stages: Sequence[Finished]) -> str:
    """The method of a stage: its id without the number of its seed."""
    if not (numbered := re.fullmatch(r"(.+)-\d+", stage.id)):
        return stage.id
    name = numbered[1]
    alike = [s.fields == stage.fields for s in stages if re.fullmatch(re.escape(name) + r"-\d+", s.id)]
    return name if all(alike) and all(s.id != name for s in stages) else stage.id


def _method(name: str, stages: Sequence[Finished], seeds: Sequence[tuple[Look, ...]]) -> Method:
    """A method from its seeds. Methods with different numbers of samples for each prompt can still be compared."""
    fields = stages[0].fields
    probe: Mapping[str, Any] = fields.get("probe") or fields
    sampling = {k: v for k, v in (probe.get("sampling") or {}).items() if k not in ("n", "seed")}
    start = json.dumps([fields.get("policy"), probe.get("prompts"), probe.get("truth"), sampling], sort_keys=True)
    return Method(name, tuple(seeds), stages[0].kind == "best_of_n", start, json.dumps(probe.get("judge")))


def _most(values: Iterable[str]) -> str:
    return next((value for value, _ in Counter(values).most_common(1)), "")


def _looks(stage: Finished) -> tuple[Look, ...]:
    """The looks of a stage, except those without KL or without any score."""
    return tuple(look for line in stage.metrics if (look := read_look(line)))


def _mean(looks: Sequence[Look], what: Level) -> float:
    return float(np.mean([getattr(look, what) for look in looks]))


def _level(found: Sequence[Method], by: Level) -> float:
    """The largest level that every seed of every method reached."""
    return min(max(getattr(look, by) for look in seed) for m in found for seed in m.seeds)


def _moments(method: Method) -> list[list[Look]]:
    """The looks of the seed that went furthest, each with the looks of the others at as many tokens. A seed is left out
    of moments that are more than half a step after its end."""
    longest = max(method.seeds, key=lambda seed: seed[-1].spent)
    found = [[seed[0] for seed in method.seeds]]
    for before, look in itertools.pairwise(longest):
        ended = (before.spent + look.spent) / 2
        there = [seed for seed in method.seeds if seed[-1].spent >= ended]
        found.append([_reach(seed, "spent", min(look.spent, seed[-1].spent)) for seed in there])
    return found


def _reach(seed: Sequence[Look], by: Level, level: float) -> Look:
    """The policy where the seed first reached the level, interpolated between the looks before and after."""
    i = next(i for i, look in enumerate(seed) if getattr(look, by) >= level)
    before, after = seed[max(i - 1, 0)], seed[i]
    if i == 0 or getattr(after, by) == level:  # needs no score from the look before
        return after
    share = (level - getattr(before, by)) / (getattr(after, by) - getattr(before, by))
    pairs = ((getattr(before, name), getattr(after, name)) for name in ("spent", "kl", "reward", "truth"))
    return Look(*((1 - share) * a + share * b for a, b in pairs))


def _at(method: Method, by: Level, level: float, key: str) -> list[np.ndarray]:
    """For each seed its value for each prompt, at the level."""
    return [getattr(_reach(seed, by, level), key) for seed in method.seeds]


def _start(found: Sequence[Method], key: str) -> np.ndarray:
    """The values at the common start: one model, although each seed evaluated it."""
    return np.mean([getattr(seed[0], key) for seed in found[0].seeds], axis=0)


def _within(found: Sequence[Method], method: Method, key: str) -> Range | None:
    """The bounds of the scores by which the method was judged, from all scores of that judge."""
    alike = [m for m in found if key == "truth" or m.judge == method.judge]
    values = np.concatenate([getattr(look, key) for m in alike for seed in m.seeds for look in seed])
    return bounds(values[np.isfinite(values)])


def _known(*tables: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The tables as (seeds, prompts) arrays, with only the prompts that have a score in all of them."""
    known = np.isfinite(np.concatenate(tables)).all(axis=0)
    return [np.stack(values)[:, known] for values in tables]


def _figure(values: Sequence[np.ndarray], within: Range | None, method: Method) -> dict[str, Any] | None:
    """The mean over seeds and prompts with its interval; None if no prompt has a score in every seed."""
    (known,) = _known(values)
    if not known.size:
        return None
    both = len(known) > 1 and not method.at_answers
    return _said(crossed(known if both else known.mean(0, keepdims=True), within=within), both)


def _difference(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], within: Range | None, *methods: Method
) -> dict[str, Any] | None:
    """Ours minus theirs, paired by prompt, with its p-value; None if they share no prompt."""
    known = _known(ours, theirs)
    if not known[0].size:
        return None
    both = not any(m.one_seed for m in methods) and not all(m.at_answers for m in methods)
    drawn = [both and not m.at_answers for m in methods] + [False]  # the start has no seeds
    a, b = (table if seeds else table.mean(0, keepdims=True) for table, seeds in zip(known, drawn))
    estimate = crossed(a, b, within)
    return {**_said(estimate, both), "p": estimate.p()}


def _said(estimate: Estimate, both: bool) -> dict[str, Any]:
    return {**estimate.figure(), "over": BOTH if both else PROMPTS_ONLY}
