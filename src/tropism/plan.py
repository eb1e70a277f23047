"""Before anything runs: what a recipe will do, what it will need, what is already done.

Estimates, not promises: parameters are exact, tokens of a data set are counted on a sample, memory is weights, gradients,
optimiser and the activations of one pass, time is arithmetic over this machine's measured matrix speed.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tropism.errors import TropismError
from tropism.protocols import Format, Stage
from tropism.recipe.kinds import NotRead
from tropism.recipe.read import Recipe
from tropism.recipe.refs import refs
from tropism.stages.best_of_n import BestOfNCurve
from tropism.stages.collect import Collect
from tropism.stages.evaluate import Evaluate
from tropism.stages.label import Label
from tropism.stages.offline import Offline
from tropism.stages.pretrain import Pretrain
from tropism.stages.rest import ReST
from tropism.stages.reward import Reward
from tropism.stages.rl import RL
from tropism.stages.sft import SFT
from tropism.stages.tokenizer import Tokenizer
from tropism.store.run import status
from tropism.train import cost

BYTES_PER_TOKEN = 2.5  # before a tokenizer has been trained
EFFICIENCY = 0.35  # of the matrix speed, in a training step of a small model


@dataclasses.dataclass(frozen=True)
class Shape:
    """What memory and time follow from."""

    parameters: int
    vocabulary: int
    width: int
    layers: int


def plan(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """{"stages": [{id, kind, state, parameters, updates, tokens, memory_bytes, seconds, key}], "memory_bytes": free}.

    Where a stage names code that was not read, `not_read` lists it; what depends on that has the state "not known".
    """
    states = status(recipe, folder)
    speed = _flops()
    shapes: dict[str, Shape | None] = {}
    vocabularies: dict[str, int] = {}
    kept: dict[str, int] = {}
    unknown: set[str] = set()
    rows = []
    for id, stage in recipe.stages.items():
        row: dict[str, Any] = {"id": id, "kind": type(stage).__module__.rpartition(".")[2], "state": states[id]}
        if states[id] != "done":
            _check_models(id, stage, recipe)
        found = _needs(id, stage, shapes, vocabularies, kept)
        shapes.setdefault(id)  # a stage from outside the package: what it makes is not known
        if code := _not_read(stage):
            row |= {"kind": stage.kind if isinstance(stage, NotRead) else row["kind"], "not_read": code}
        if code or any(ref in unknown for _, _, ref in refs(stage)):  # the fingerprint covers that code
            unknown.add(id)
            row["state"] = "not known"
        row |= found if not code else {"parameters": found["parameters"]} if "parameters" in found else {}
        if "tokens" in row and "parameters" in row:
            flops = row.pop("passes") * 2 * row["parameters"] * row["tokens"]
            row["seconds"] = round(flops / (speed * EFFICIENCY) + 0.01 * row["updates"], 1)
        rows.append(row)
    return {"recipe": recipe.name, "folder": str(folder), "memory_bytes": free_memory(), "stages": rows}


def refuse(made: Mapping[str, Any]) -> None:
    """Raises for the first stage still to do that will not fit into memory, naming the key to change."""
    for row in made["stages"]:
        if row["state"] != "done" and row.get("memory_bytes", 0) > made["memory_bytes"]:
            raise TropismError(
                f"stage {row['id']} needs about {_size(row['memory_bytes'])} and {_size(made['memory_bytes'])} are "
                f"free: lower {row['key']}"
            )


def table(made: Mapping[str, Any]) -> str:
    """The plan for a person."""
    grid = Table(box=None, pad_edge=False)
    for column in ("stage", "kind", "state", "parameters", "updates", "tokens", "memory", "time"):
        grid.add_column(column, justify="left" if column in ("stage", "kind", "state") else "right")
    for row in made["stages"]:
        seconds = row.get("seconds")
        grid.add_row(
            row["id"],
            row["kind"],
            row["state"],
            f"{row['parameters']:,}" if "parameters" in row else "",
            f"{row['updates']:,}" if row.get("updates") else "",
            f"{row['tokens']:,}" if "tokens" in row else "",
            _size(row["memory_bytes"]) if "memory_bytes" in row else "",
            f"{seconds:,.0f} s" if seconds is not None else "",
        )
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(grid)
        left = sum(r.get("seconds", 0) for r in made["stages"] if r["state"] != "done")
        if code := sorted({kind for row in made["stages"] for kind in row.get("not_read", ())}):
            console.print(f"code from outside the package, not read: {', '.join(code)}")
        console.print(
            f"about {left:,.0f} s to go; {_size(made['memory_bytes'])} of memory free; run folder {made['folder']}"
        )
    return capture.get().rstrip("\n")


def free_memory() -> int:
    """Bytes that can be had: of the GPU if there is one, else of the machine."""
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


def _needs(
    id: str, stage: Stage, shapes: dict[str, Shape | None], vocabularies: dict[str, int], kept: dict[str, int]
) -> dict[str, Any]:
    """What one stage adds to the plan, nothing if its model is not known yet; remembers what later stages ask about it."""
    if isinstance(stage, Tokenizer):
        vocabularies[id] = stage.vocab_size
    elif isinstance(stage, Pretrain):
        if stage.init:
            shapes[id] = shape = _shape(stage.init, shapes)
        else:
            vocabulary = _vocabulary(stage.tokenizer or "", shapes, vocabularies)
            model = stage.model
            made = Shape(model.parameters(vocabulary), vocabulary, model.width, model.layers) if vocabulary else None
            shapes[id] = shape = made
        return _training(
            shape,
            stage.steps,
            stage.steps * stage.tokens_per_step,
            stage.tokens_per_step,
            stage.pass_tokens,
            1,
            0,
            3.0,
            f"{id}.model.width or {id}.tokens_per_step",
        )
    elif isinstance(stage, SFT):
        shapes[id] = shape = _shape(stage.model, shapes)
        each = _tokens(stage.data)
        return _training(
            shape,
            stage.steps,
            stage.steps * stage.groups_per_step * each,
            stage.groups_per_step * each,
            stage.pass_tokens,
            1,
            0,
            3.0,
            f"{id}.pass_tokens",
        )
    elif isinstance(stage, Collect):
        kept[id] = _count(stage.prompts)
        tokens = kept[id] * stage.sampling.n * stage.sampling.max_tokens
        return _sampling(_shape(stage.policy, shapes), tokens, 1, f"{id}.sampling.max_tokens")
    elif isinstance(stage, Label):
        kept[id] = _count(stage.data) if stage.data else kept.get(stage.groups or "", 0)
    elif isinstance(stage, Reward):
        shapes[id] = shape = _shape(stage.model, shapes)
        groups = _kept(stage.groups, kept)
        updates = max(1, round(stage.passes * groups / stage.groups_per_step))
        each = 128
        return _training(
            shape,
            updates,
            int(stage.passes * groups * each),
            stage.groups_per_step * each,
            stage.pass_tokens,
            1,
            0,
            3.0,
            f"{id}.pass_tokens",
        )
    elif isinstance(stage, RL):
        shapes[id] = shape = _shape(stage.policy, shapes)
        each = stage.prompts_per_round * stage.sampling.n * stage.sampling.max_tokens
        passes = 2 + cost.filling(stage.algorithm, sampled=True) + stage.epochs * cost.updating(stage.algorithm)
        spent = passes * each  # at most; one model judges
        rounds = min(stage.rounds, -(-stage.budget // spent)) if stage.budget else stage.rounds
        updates = rounds * stage.epochs * stage.minibatches
        trained = 2 if "values_BT" in stage.algorithm.predicts else 1
        return _training(
            shape,
            updates,
            rounds * each,
            each // stage.minibatches,
            stage.pass_tokens,
            trained,
            2,
            3.0 + 3.0 * stage.epochs * trained,
            f"{id}.pass_tokens or {id}.policy",
        )
    elif isinstance(stage, Offline):
        shapes[id] = shape = _shape(stage.policy, shapes)
        each = 128 * stage.groups_per_step
        tokens = int(stage.passes * _kept(stage.groups, kept) / stage.groups_per_step * each)
        passes = cost.filling(stage.algorithm, sampled=False) + cost.updating(stage.algorithm)
        tokens = min(tokens, stage.budget // passes) if stage.budget else tokens
        return _training(
            shape,
            max(1, tokens // each),
            tokens,
            each,
            stage.pass_tokens,
            1,
            1,
            4.0,
            f"{id}.pass_tokens or {id}.policy",
        )
    elif isinstance(stage, ReST):
        shapes[id] = shape = _shape(stage.policy, shapes)
        updates = stage.grows * len(stage.thresholds) * stage.steps
        each = 128 * stage.groups_per_step
        grown = stage.grows * _count(stage.prompts) * stage.sampling.n * stage.sampling.max_tokens
        return _training(
            shape,
            updates,
            updates * each + grown,
            each,
            stage.pass_tokens,
            1,
            2,
            3.0,
            f"{id}.pass_tokens or {id}.policy",
        )
    elif isinstance(stage, BestOfNCurve):
        tokens = _count(stage.prompts) * stage.sampling.n * stage.sampling.max_tokens
        return _sampling(_shape(stage.policy, shapes), tokens, 2, f"{id}.policy")
    elif isinstance(stage, Evaluate):
        found = [shape for m in stage.models.values() if (shape := _shape(m, shapes))]
        tokens = len(stage.models) * _count(stage.prompts) * (stage.sampling.n + 1) * stage.sampling.max_tokens
        return _sampling(max(found, key=lambda s: s.parameters, default=None), tokens, 3, f"{id}.models")
    return {}


def _not_read(value: Any) -> list[str]:
    """The kinds in a stage whose code was not read."""
    if isinstance(value, NotRead):
        return [value.kind]
    if isinstance(value, Mapping):
        return [kind for item in value.values() for kind in _not_read(item)]
    if isinstance(value, tuple):
        return [kind for item in value for kind in _not_read(item)]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return []
    return [kind for field in dataclasses.fields(value) for kind in _not_read(getattr(value, field.name, None))]


def _sampling(shape: Shape | None, tokens: int, models: int, key: str) -> dict[str, Any]:
    """The weights of as many models as are held at once."""
    if shape is None:
        return {}
    return {
        "parameters": shape.parameters,
        "updates": 0,
        "tokens": tokens,
        "passes": 1.0,
        "memory_bytes": 4 * models * shape.parameters,
        "key": key,
    }


def _training(
    shape: Shape | None,
    updates: int,
    tokens: int,
    at_once: int,
    pass_tokens: int,
    trained: int,
    frozen: int,
    passes: float,
    key: str,
) -> dict[str, Any]:
    """Weights, gradients and two moments of each trained model, weights of the frozen ones, one pass's activations."""
    if shape is None:
        return {}
    held = min(at_once, pass_tokens or at_once)
    activations = held * (shape.layers * shape.width * 4 * 24 + shape.vocabulary * 4 * 3)
    return {
        "parameters": shape.parameters,
        "updates": updates,
        "tokens": tokens,
        "passes": passes,
        "memory_bytes": (16 * trained + 4 * frozen) * shape.parameters + activations,
        "key": key,
    }


def _check_models(id: str, stage: Stage, recipe: Recipe) -> None:
    """Raises for a model from outside the recipe that a stage cannot take, as far as its config tells."""
    from tropism.models.folder import check_taken

    for field, ref, name in refs(stage):
        if ref.kind == "model" and name not in recipe.stages:
            language = field in ("policy", "init") or isinstance(stage, SFT)
            try:
                check_taken(name, scalar=not language)
            except TropismError as error:
                raise TropismError(f"{id}.{field}: {error}") from None


def _shape(ref: str, shapes: Mapping[str, Shape | None]) -> Shape | None:
    if ref in shapes:
        return shapes[ref]
    import torch
    from transformers import AutoModelForCausalLM

    from tropism.models.folder import check_taken
    from tropism.models.halves import vocabulary_of

    config = check_taken(ref, scalar=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config(decoder=True)
    return Shape(model.num_parameters(), vocabulary_of(model), text.hidden_size, text.num_hidden_layers)


def _vocabulary(ref: str, shapes: Mapping[str, Shape | None], vocabularies: Mapping[str, int]) -> int | None:
    if ref in shapes:
        shape = shapes[ref]
        return shape.vocabulary if shape else vocabularies.get(ref)
    from tropism.text.tokenizer import load_tokenizer

    return len(load_tokenizer(ref))


def _tokens(source: Format) -> int:
    """Mean tokens of a group, on a sample."""
    sizes = [
        sum(len(m.content.encode()) for m in g.prompt) + sum(len(c.text.encode()) for c in g.completions)
        for g in itertools.islice(iter(source.groups()), 200)
    ]
    return max(1, round(sum(sizes) / max(len(sizes), 1) / BYTES_PER_TOKEN))


def _kept(refs: str | tuple[str, ...], kept: Mapping[str, int]) -> int:
    return sum(kept.get(ref, 0) for ref in ([refs] if isinstance(refs, str) else refs))


def _count(source: Format | None) -> int:
    return sum(1 for _ in source.groups()) if source else 0


def _flops() -> float:
    """Floating-point operations a second of a matrix product on this machine."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(512, 512, device=device)
    best = float("inf")
    for _ in range(20):  # the best of many, since others may be using the machine
        began = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - began)
    return 2 * 512**3 / best


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
