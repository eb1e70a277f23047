"""Reads a run folder: which stages are finished, their fields, their metrics. Nothing here writes or locks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tropism.errors import TropismError
from tropism.recipe.kinds import resolve
from tropism.store import files

DONE = "DONE"
RECIPE = "recipe.json"


def latest(folder: Path) -> dict[str, Path]:
    """For each stage of the last run in a run folder its finished folder, in the order in which they ran."""
    folders = read_recipe(folder)["folders"]
    return {id: folder / name for id, name in folders.items() if (folder / name / DONE).exists()}


def read_recipe(folder: Path) -> dict[str, Any]:
    """recipe.json: {"name", "seed", "stages": {id: fields}, "folders": {id: name}}."""
    try:
        found = json.loads((folder / RECIPE).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise TropismError(f"{folder} is not a run folder: give one that `tropism run` has made") from None
    except (OSError, ValueError, RecursionError):
        found = {}
    if not isinstance(found, dict) or not all(isinstance(found.get(k), dict) for k in ("stages", "folders")):
        raise TropismError(
            f"{folder / RECIPE} is damaged: `tropism run` the recipe again with --out {folder}, which writes the file "
            "again and skips what is done"
        )
    return found


def read_stage(folder: Path) -> dict[str, Any] | None:
    """stage.json of a stage's folder: {"id", "fingerprint", "fields", …}; None if it is damaged."""
    try:
        found = json.loads((folder / "stage.json").read_text("utf-8"))
        return found if isinstance(found["fields"], dict) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def makes(stage: Mapping[str, Any]) -> str:
    """What a stage made, by its stage.json. An older one does not say it; then the class of its kind does."""
    kind = stage["fields"]["kind"]
    return stage["makes"] if "makes" in stage else resolve("stages", kind).makes if kind.startswith("tropism.") else ""


def policy_in(text: str) -> str:
    """A model folder or hub id unchanged; for a run folder, the model of its last stage that made a policy."""
    folder = Path(text)
    if not (folder / RECIPE).exists():
        return text
    made = {path: makes(stage) for path in latest(folder).values() if (stage := read_stage(path))}
    policies = [path / "out" for path, what in made.items() if what == "policy"]
    if not policies:
        raise TropismError(f"{folder} has no finished stage that makes a policy to talk to: run the recipe further")
    return str(policies[-1])


def ancestry(folder: Path) -> dict[Path, str]:
    """The folders of a stage and of all stages that it depends on, with their ids; empty if no stage made `folder`."""
    found: dict[Path, str] = {}
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if here in found or (made := read_stage(here)) is None:
            continue
        found[here] = made["id"]
        waiting += [here.parent / f"{id}-{mark[:8]}" for id, mark in made["inputs"].items()]
    return found


def done(folder: Path) -> dict[str, Any] | None:
    """The meta in DONE, if the stage is finished and its files are undamaged; None otherwise."""
    meta = files.sealed(folder, DONE)
    return meta if meta is not None and {"seconds", "facts"} <= set(meta) else None


def read_metrics(folder: Path) -> list[Mapping[str, Any]]:
    """The lines of a stage folder's metrics.jsonl, without a last line that was cut by a kill."""
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]
