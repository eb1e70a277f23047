"""`tropism plan`: what a recipe will do, what it will need, and what is already done, before anything runs.

These are estimates: each stage says what it needs (`needs.py`), and times are computed from the measured matrix speed
of this machine.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tropism.errors import TropismError
from tropism.models.folder import check_taken
from tropism.needs import Earlier, Needs
from tropism.protocols import Planned, Stage
from tropism.recipe.kinds import NotRead
from tropism.recipe.read import Recipe
from tropism.recipe.refs import refs
from tropism.store.run import status
from tropism.types import MODELS

EFFICIENCY = 0.35  # the share of the matrix speed that a training step of a small model reaches


READY = ("done", "taken over")  # the states of a stage that does not run


def plan(recipe: Recipe, folder: Path, reused: Path | None = None) -> dict[str, Any]:
    """{"stages": [{id, kind, state, parameters, updates, tokens, memory_bytes, seconds, key}], "memory_bytes": free}.

    A stage that does not say what it needs has `needs`: "unknown" and no figures. A stage that asks people has
    `judgments`. If a stage names code that was not loaded, `not_read` lists it; the state of everything that depends on
    it is "not known".
    """
    states = status(recipe, folder, reused)
    speed = _flops()
    known: dict[str, Needs] = {}
    unknown: set[str] = set()
    rows = []
    for id, stage in recipe.stages.items():
        row: dict[str, Any] = {"id": id, "kind": type(stage).__module__.rpartition(".")[2], "state": states[id]}
        if states[id] not in READY:
            _check_models(id, stage, recipe)
        known[id] = needs = stage.needs(Earlier(known)) if isinstance(stage, Planned) else Needs()
        if code := _not_read(stage):
            row |= {"kind": stage.kind if isinstance(stage, NotRead) else row["kind"], "not_read": code}
        elif not isinstance(stage, Planned):
            row["needs"] = "unknown"
        if needs.judgments:
            row["judgments"] = needs.judgments
        if code or any(ref in unknown for _, _, ref in refs(stage)):  # the fingerprint depends on that code
            unknown.add(id)
            row["state"] = "not known"
        figures = _figures(id, needs, speed)
        rows.append(row | {name: figures[name] for name in figures if not code or name == "parameters"})
    return {"recipe": recipe.name, "folder": str(folder), "memory_bytes": free_memory(), "stages": rows}


def refuse(made: Mapping[str, Any]) -> None:
    """Raises for the first stage still to do that will not fit into memory, naming the key to change."""
    for row in made["stages"]:
        if row["state"] not in READY and row.get("memory_bytes", 0) > made["memory_bytes"]:
            raise TropismError(
                f"stage {row['id']} needs about {_size(row['memory_bytes'])}, but {_size(made['memory_bytes'])} are "
                f"free: lower {row['key']}"
            )


def table(made: Mapping[str, Any]) -> str:
    """The plan as a table for people."""
    grid = Table(box=None, pad_edge=False)
    for column in ("stage", "kind", "state", "parameters", "updates", "tokens", "memory", "time"):
        grid.add_column(column, justify="left" if column in ("stage", "kind", "state") else "right")
    for row in made["stages"]:
        seconds = row.get("seconds")
        grid.add_row(
            row["id"],
            row["kind"],
            row["state"],
            f"{row['parameters']:,}" if "parameters" in row else row.get("needs", ""),
            f"{row['updates']:,}" if row.get("updates") else "",
            f"{row['tokens']:,}" if "tokens" in row else "",
            _size(row["memory_bytes"]) if "memory_bytes" in row else "",
            f"{seconds:,.0f} s" if seconds is not None else "",
        )
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(grid)
        for row in made["stages"]:
            if "judgments" in row and row["state"] not in READY:
                console.print(f"{row['id']} asks people for {row['judgments']:,} judgments, and waits for them")
        left = sum(r.get("seconds", 0) for r in made["stages"] if r["state"] not in READY)
        if code := sorted({kind for row in made["stages"] for kind in row.get("not_read", ())}):
            console.print(f"code from outside the package, not loaded: {', '.join(code)}")
        console.print(
            f"about {left:,.0f} s to go; {_size(made['memory_bytes'])} of memory free; run folder {made['folder']}"
        )
    return capture.get().rstrip("\n")


def free_memory() -> int:
    """Free bytes, of the GPU if there is one, otherwise of the machine."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _figures(id: str, needs: Needs, speed: float) -> dict[str, Any]:
    """The figures of a stage for its row; empty if it uses no model, or one that is not known yet."""
    if not needs.parameters:
        return {}
    flops = needs.passes * 2 * needs.parameters * needs.tokens
    return {
        "parameters": needs.parameters,
        "updates": needs.updates,
        "tokens": needs.tokens,
        "memory_bytes": needs.memory_bytes,
        "key": " or ".join(f"{id}.{key}" for key in needs.keys),
        "seconds": round(flops / (speed * EFFICIENCY) + 0.01 * needs.updates, 1),
    }


def _not_read(value: Any) -> list[str]:
    """The kinds in a stage whose code was not loaded."""
    if isinstance(value, NotRead):
        return [value.kind]
    if isinstance(value, Mapping):
        return [kind for item in value.values() for kind in _not_read(item)]
    if isinstance(value, tuple):
        return [kind for item in value for kind in _not_read(item)]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return []
    return [kind for field in dataclasses.fields(value) for kind in _not_read(getattr(value, field.name, None))]


def _check_models(id: str, stage: Stage, recipe: Recipe) -> None:
    """Raises TropismError if the config of a model from outside the recipe shows that a stage cannot use it."""
    for field, ref, name in refs(stage):
        if set(ref.takes) <= set(MODELS) and name not in recipe.stages:
            try:
                check_taken(name, scalar="scorer" in ref.takes)
            except TropismError as error:
                raise TropismError(f"{id}.{field}: {error}") from None


def _flops() -> float:
    """Floating-point operations per second of a matrix product on this machine."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(512, 512, device=device)
    best = float("inf")
    for _ in range(20):  # the best of many, since other programs may be running
        began = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - began)
    return 2 * 512**3 / best


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
