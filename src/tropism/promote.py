"""The gate before anything is served: a model leaves its run only if it was measured to be better, intervals apart.

What leaves is a plain model, an adapter merged into its base, with one file more: `manifest.json` holds the checksum of
every file and, as `meta`, the figures that opened the gate, so that they stay with the bytes they were measured on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tropism.errors import TropismError
from tropism.report.read import EVALUATION, Findings, read
from tropism.store import files
from tropism.store.folder import latest, read_stage


def promote(run: Path, model: str, out: Path, over: str, metric: str) -> str:
    """Copies an evaluated model out of a run; returns the measured sentence. Raises TropismError with it otherwise."""
    findings = read(run)
    even = metric == f"win_over_{over}"  # what a model wins over itself is one half, and not measured
    names = (model,) if even else (model, over)
    figures = {name: _figure(findings.models, name, metric, run) for name in names}
    said = " and ".join(f"{name} has {_shown(figures[name])}" for name in names)
    better = findings.measures[metric]["better"]
    if not better:
        raise TropismError(f"neither more nor less of {metric} is better: choose a metric that says which way is")
    ours, theirs = figures[model], {"low": 0.5, "high": 0.5} if even else figures[over]
    if not (ours["low"] > theirs["high"] if better == "higher" else ours["high"] < theirs["low"]):
        side = "above" if better == "higher" else "below"
        why = "that is not apart from one half" if even else f"the intervals are not apart with {model} {side}"
        raise TropismError(
            f"{model} is not promoted: in {metric} {said} on held-out prompts, and {why}; train it further or measure on "
            "more prompts"
        )
    source = _source(run, findings, model)
    files.vacant(out)
    evidence = {"model": model, "over": over, "metric": metric, "figures": figures, "recipe": findings.recipe}
    files.write_folder(out, lambda folder: _copy(source, folder), evidence)
    return f"in {metric} {said}"


def _source(run: Path, findings: Findings, model: str) -> Path:
    """The folder of the model that was evaluated. Raises if it is not of this run, damaged, or made again since."""
    ref, stages = findings.evaluate["models"][model], latest(run)
    if ref not in {stage.id for stage in findings.stages}:
        raise TropismError(f"{model} is {ref}, which is no finished and whole stage of {run}: run the recipe again")
    evaluation = [stages[s.id] for s in findings.stages if (stages[s.id] / "out" / EVALUATION).exists()][-1]
    measured, made = read_stage(evaluation) or {}, read_stage(stages[ref]) or {}  # whole, or they were not finished
    if measured["inputs"].get(ref) != made["fingerprint"]:
        raise TropismError(f"{model} was made again since it was evaluated in {run}: run the recipe again")
    return stages[ref] / "out"


def _copy(source: Path, folder: Path) -> None:
    from tropism.models import adapters  # a refusal takes no torch
    from tropism.models import folder as folders

    if adapters.is_adapter(source):
        folders.merge(source, folder)
    else:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def _figure(models: Mapping[str, Mapping[str, Any]], name: str, metric: str, run: Path) -> Mapping[str, float]:
    if name not in models:
        raise TropismError(f"{run} has not evaluated a model {name!r}: choose one of {', '.join(models) or 'none yet'}")
    measured = {
        key: f for key, f in models[name].items() if isinstance(f, Mapping) and {"value", "low", "high"} <= set(f)
    }
    if metric not in measured:
        raise TropismError(f"{run} measured no {metric!r} of {name}: choose one of {', '.join(measured)}")
    return measured[metric]


def _shown(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3g} [{figure['low']:.3g}, {figure['high']:.3g}]"
