"""Reads the data for the report: the finished stages of a run folder and the results of its evaluation.

Unfinished or damaged stages are left out, and so are figures that are not numbers. If a recipe evaluates more than
once, the last finished evaluation is used: figures on different prompts are not mixed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tropism.recipe.kinds import names, resolve
from tropism.report.words import title
from tropism.store.folder import done, latest, read_metrics, read_recipe, read_stage

EVALUATION = "evaluation.json"  # written by the evaluate stage
JUDGES = "judges.json"  # written by a label stage
SIMULATED = {
    "tropism.formats.phrasebook:Phrasebook": "demonstrators",
    "tropism.judges.annotator:Annotator": "annotators",
}


@dataclass(frozen=True)
class Finished:
    """One finished stage: its recipe fields, the facts it left in DONE, its metrics.jsonl."""

    id: str
    kind: str
    seconds: float
    fields: Mapping[str, Any]
    facts: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)  # known by identity: `report/compared.py` keeps the comparison of one
class Findings:
    """A run. `planned` is every stage id of the recipe; `stages` are the finished ones, in the recipe's order."""

    recipe: str
    planned: tuple[str, ...]
    stages: tuple[Finished, ...]
    evaluation: Mapping[str, Any]  # empty if nothing is evaluated yet
    evaluate: Mapping[str, Any]  # the recipe fields of that evaluation
    judges: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # figures of each judge that asks a model

    @property
    def models(self) -> Mapping[str, Mapping[str, Any]]:
        """The evaluated models' figures, by name."""
        return self.evaluation.get("models", {})

    @property
    def measures(self) -> Mapping[str, Mapping[str, str]]:
        """The title, unit and better direction of each figure, in the order of display."""
        over = title(self.over)
        told = self.evaluation.get("measures") or _known(self.over)
        return {key: {**about, "title": about["title"].replace("{over}", over)} for key, about in told.items()}

    @property
    def over(self) -> str:
        """The model that the others are compared with."""
        return self.evaluation.get("over", "")

    @property
    def asked(self) -> str:
        """How the report calls the prompts of the evaluation."""
        return "prompts" if self.evaluation.get("overlap", {}).get("met") else "held-out prompts"

    @property
    def plain(self) -> Sequence[str]:
        """The models that got their prompts as raw text, because they were never trained with a chat template."""
        return self.evaluate.get("plain", ())

    @property
    def simulated(self) -> list[str]:
        """The people who are simulated in this run: demonstrators, annotators."""
        kinds = {kind for stage in self.stages for kind in _kinds(stage.fields)}
        return sorted({who for kind, who in SIMULATED.items() if kind in kinds}, reverse=True)


def read(folder: Path) -> Findings:
    """Raises TropismError if `folder` is not a run folder."""
    stages, evaluation, evaluate, judges = [], {}, {}, {}
    finished = latest(folder)
    recipe = read_recipe(folder)
    for id, path in finished.items():
        if (meta := done(path)) is None or (stage := read_stage(path)) is None:
            continue
        fields = stage["fields"]
        kind = _short(fields["kind"])
        stages.append(Finished(id, kind, meta["seconds"], fields, finite(meta["facts"]), read_metrics(path)))
        if (file := path / "out" / EVALUATION).exists():
            evaluation, evaluate = finite(json.loads(file.read_text("utf-8"))), fields
        if (file := path / "out" / JUDGES).exists():
            judges |= finite(json.loads(file.read_text("utf-8")))
    return Findings(recipe["name"], tuple(recipe["stages"]), tuple(stages), evaluation, evaluate, judges)


def _known(over: str) -> dict[str, dict[str, str]]:
    """The same from the package, for older evaluations without this entry."""
    known = sorted((resolve("measures", kind).about for kind in names("measures")), key=lambda about: about.order)
    return {about.key(drawn, over): about.shown(drawn) for about in known for drawn in about.of}


def finite(value: Any) -> Any:
    """The value without NaN and infinities, which JSON does not have, and without tables that become empty."""
    if isinstance(value, Mapping):
        kept = {key: finite(item) for key, item in value.items() if not _lost(item)}
        return {key: item for key, item in kept.items() if item not in ({}, []) or item == value[key]}
    return [finite(item) for item in value if not _lost(item)] if isinstance(value, list) else value


def _lost(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _short(kind: str) -> str:
    """`tropism.stages.sft:SFT` becomes the kind `sft`; a kind from outside is not changed."""
    module, _, _ = kind.partition(":")
    return module.removeprefix("tropism.stages.") if module.startswith("tropism.stages.") else kind


def _kinds(value: Any) -> list[str]:
    """Every `kind` anywhere in a stage's fields."""
    if isinstance(value, Mapping):
        here = [value["kind"]] if isinstance(value.get("kind"), str) else []
        return here + [kind for item in value.values() for kind in _kinds(item)]
    return [kind for item in value for kind in _kinds(item)] if isinstance(value, list) else []
