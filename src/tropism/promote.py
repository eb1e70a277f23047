"""The check before a model is served: it is copied out of its run only if it was measured to be better than another
model, with intervals that do not overlap.

The copy is a plain model, with an adapter merged into its base, and one more file: `manifest.json` has the checksum of
every file and, as `meta`, the figures that were checked, so that they stay with the weights for which they were
measured.
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
    """Copies an evaluated model out of a run and returns a sentence with the figures. Raises TropismError with that
    sentence if the model was not measured to be better."""
    findings = read(run)
    even = metric == f"win_over_{over}"  # for `over` itself this is one half and is not measured
    names = (model,) if even else (model, over)
    figures = {name: _figure(findings.models, name, metric, run) for name in names}
    said = " and ".join(f"{name} has {_shown(figures[name])}" for name in names)
    better = findings.measures[metric]["better"]
    if not better:
        raise TropismError(f"the metric {metric} has no better direction: choose a metric that has one")
    ours, theirs = figures[model], {"low": 0.5, "high": 0.5} if even else figures[over]
    if not (ours["low"] > theirs["high"] if better == "higher" else ours["high"] < theirs["low"]):
        side = "above" if better == "higher" else "below"
        why = "that interval is not above one half" if even else f"the interval of {model} is not {side} the other"
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
    """The folder of the evaluated model. Raises TropismError if it is not in this run, damaged, or was made again
    since."""
    ref, stages = findings.evaluate["models"][model], latest(run)
    if ref not in {stage.id for stage in findings.stages}:
        raise TropismError(f"{model} is {ref}, which is not a finished, undamaged stage of {run}: run the recipe again")
    evaluation = [stages[s.id] for s in findings.stages if (stages[s.id] / "out" / EVALUATION).exists()][-1]
    measured, made = read_stage(evaluation) or {}, read_stage(stages[ref]) or {}  # both exist: the stages are finished
    if measured["inputs"].get(ref) != made["fingerprint"]:
        raise TropismError(f"{model} was made again since it was evaluated in {run}: run the recipe again")
    return stages[ref] / "out"


def _copy(source: Path, folder: Path) -> None:
    from tropism.models import adapters  # loads torch, which is not needed to refuse
    from tropism.models import folder as folders

    if adapters.is_adapter(source):
        folders.merge(source, folder)
    else:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def _figure(models: Mapping[str, Mapping[str, Any]], name: str, metric: str, run: Path) -> Mapping[str, float]:
    if name not in models:
        raise TropismError(f"{run} has no evaluated model {name!r}: choose one of {', '.join(models) or 'none yet'}")
    measured = {
        key: f for key, f in models[name].items() if isinstance(f, Mapping) and {"value", "low", "high"} <= set(f)
    }
    if metric not in measured:
        raise TropismError(f"{run} has no figure {metric!r} of {name}: choose one of {', '.join(measured)}")
    return measured[metric]


def _shown(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3g} [{figure['low']:.3g}, {figure['high']:.3g}]"
