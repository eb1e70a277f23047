"""Reading a run folder: which stages are finished, what they were, what they measured. Nothing here writes or locks."""

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
    """The finished folder of each stage that last ran in a run folder, in the order they ran."""
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
            f"{folder / RECIPE} is damaged: `tropism run` the recipe again with --out {folder}, it writes that file "
            "anew and skips what is done"
        )
    return found


def read_stage(folder: Path) -> dict[str, Any] | None:
    """stage.json of a stage's folder: {"id", "fingerprint", "fields", …}; None if it is torn."""
    try:
        found = json.loads((folder / "stage.json").read_text("utf-8"))
        return found if isinstance(found["fields"], dict) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def makes(stage: Mapping[str, Any]) -> str:
    """What a stage made, by its stage.json; an older one does not say, so there its kind is asked."""
    kind = stage["fields"]["kind"]
    return stage["makes"] if "makes" in stage else resolve("stages", kind).makes if kind.startswith("tropism.") else ""


def ancestry(folder: Path) -> dict[Path, str]:
    """The folder of a stage and of every stage that it depends on, with their ids; nothing if no stage has made it."""
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
    """What DONE says, if the stage is finished and its files are whole; None otherwise."""
    meta = files.sealed(folder, DONE)
    return meta if meta is not None and {"seconds", "facts"} <= set(meta) else None


def read_metrics(folder: Path) -> list[Mapping[str, Any]]:
    """The lines of a stage folder's metrics.jsonl, but for one that a kill has cut."""
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]
