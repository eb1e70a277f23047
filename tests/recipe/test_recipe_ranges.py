"""A recipe's numbers have ranges: every field says its own, and what is outside is refused, from TOML and from Python."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Gt, Interval, Le, Lt

from tropism.catalogue import catalogue
from tropism.errors import TropismError
from tropism.formats.phrasebook import Phrasebook
from tropism.protocols import Algorithm, Format, Judge, Search, Stage
from tropism.recipe.build import build
from tropism.recipe.kinds import FOLDERS, names, resolve
from tropism.recipe.ranges import bounds, inside, ranges, said
from tropism.stages.tokenizer import Tokenizer
from tropism.store.progress import Reporter
from tropism.store.run import Run
from tropism.train.optim import Optim


@pytest.mark.parametrize(
    ("hint", "text", "good", "bad"),
    [
        (Annotated[int, Ge(1)], " of 1 or more", [1, 10**18], [0, -1]),
        (Annotated[float, Gt(0)], " above 0", [1e-9], [0.0, -0.0, -1.0]),
        (Annotated[float, Interval(ge=0, le=1)], " from 0 to 1", [0.0, 1.0], [-1e-9, 1.0001]),
        (Annotated[float, Interval(ge=0, lt=1)], " from 0 to below 1", [0.0, 0.9999], [1.0]),
        (Annotated[float, Interval(gt=0, le=1)], " above 0 to 1", [1.0], [0.0]),
        (Annotated[float, Le(5)], " of 5 or less", [-9.0, 5.0], [5.1]),
        (Annotated[float, Lt(5000)], " below 5,000", [4999.0], [5000.0]),
        (Annotated[float, Interval()], "", [-1e300, 0.0], []),
    ],
)
def test_bounds(hint: Any, text: str, good: list[float], bad: list[float]) -> None:
    limits = bounds(hint.__metadata__)
    assert said(limits) == text
    assert all(inside(value, limits) for value in good)
    assert not any(inside(value, limits) for value in (*bad, float("nan"), float("inf"), float("-inf")))


def plugged() -> Iterator[type]:
    """Every dataclass that a recipe can reach, nested ones included."""
    seen: list[Any] = [resolve(folder, name) for folder in sorted(set(FOLDERS.values())) for name in names(folder)]
    for made in seen:
        if not dataclasses.is_dataclass(made):
            continue
        yield made
        for hint in typing.get_type_hints(made).values():
            inner = [one for one in (hint, *typing.get_args(hint)) if inspect.isclass(one)]
            seen += [one for one in inner if dataclasses.is_dataclass(one) and one not in seen]


def numbers(hint: Any) -> int:
    """How many int and float leaves a type has, annotated or not."""
    if hint in (int, float) or typing.get_origin(hint) is Callable:
        return hint in (int, float)
    inner = typing.get_args(hint)
    return sum(map(numbers, inner[:1] if typing.get_origin(hint) is Annotated else inner))


@pytest.mark.parametrize("made", plugged(), ids=lambda made: f"{made.__module__}.{made.__name__}")
def test_every_number_says_its_range(made: type) -> None:
    hints = typing.get_type_hints(made, include_extras=True)
    for field in dataclasses.fields(made):
        hint = hints[field.name]
        bare = numbers(hint) - len(list(ranges(hint))) if field.init else 0
        assert not bare, f"{made.__name__}.{field.name}: {hint} says no range; Interval() if any number will do"


BOOK = {"kind": "phrasebook", "part": "prompts"}
RL = {"kind": "rl", "policy": "x", "prompts": BOOK, "judge": "chrf"}
REST = {**RL, "kind": "rest"}
SFT = {"kind": "sft", "model": "x", "data": BOOK}
PRETRAIN = {"kind": "pretrain", "init": "x", "data": BOOK}
NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("protocol", "table", "says"),
    [
        (Stage, {**SFT, "optim": {"clip_norm": -1}}, "x.optim.clip_norm = -1.0 must be a number of 0 or more"),
        (Stage, {**SFT, "optim": {"lr": 0}}, "x.optim.lr = 0.0 must be a number above 0"),
        (Stage, {**SFT, "optim": {"lr": NAN}}, "x.optim.lr = nan must be a number above 0"),
        (Stage, {**SFT, "optim": {"lr": INFINITE}}, "x.optim.lr = inf must be a number above 0"),
        (Stage, {**SFT, "optim": {"warmup": 1.5}}, "x.optim.warmup = 1.5 must be a number from 0 to 1"),
        (Stage, {**SFT, "optim": {"betas": [0.9, 1]}}, "x.optim.betas[1] = 1.0 must be a number from 0 to below 1"),
        (Stage, {**SFT, "steps": 0}, "x.steps = 0 must be a whole number of 1 or more"),
        (Stage, {**SFT, "steps": "3"}, "x.steps = '3' must be a whole number of 1 or more"),
        (Stage, {**SFT, "steps": True}, "x.steps = True must be a whole number of 1 or more"),
        (Stage, {**SFT, "groups_per_step": 0}, "x.groups_per_step = 0 must be a whole number of 1 or more"),
        (Stage, {**SFT, "held_out": 1}, "x.held_out = 1.0 must be a number from 0 to 0.5"),
        (Stage, {**SFT, "adapter": {"alpha": 0}}, "x.adapter.alpha = 0.0 must be a number above 0"),
        (Stage, {**SFT, "adapter": {"r": -1}}, "x.adapter.r = -1 must be a whole number of 0 or more"),
        (Stage, {**PRETRAIN, "row_tokens": 1}, "x.row_tokens = 1 must be a whole number of 2 or more"),
        (Stage, {**PRETRAIN, "model": {"heads": 0}}, "x.model.heads = 0 must be a whole number of 1 or more"),
        (Stage, {**RL, "rounds": 0}, "x.rounds = 0 must be a whole number of 1 or more"),
        (Stage, {**RL, "epochs": -2}, "x.epochs = -2 must be a whole number of 1 or more"),
        (Stage, {**RL, "minibatches": 0}, "x.minibatches = 0 must be a whole number of 1 or more"),
        (Stage, {**RL, "sampling": {"top_p": 0}}, "x.sampling.top_p = 0.0 must be a number above 0 to 1"),
        (Stage, {**RL, "sampling": {"temperature": -1}}, "x.sampling.temperature = -1.0 must be a number of 0 or more"),
        (Stage, {**RL, "shaping": {"clip": -1}}, "x.shaping.clip = -1.0 must be a number of 0 or more"),
        (Stage, {**RL, "shaping": {"length_free": -1}}, "x.shaping.length_free = -1 must be a whole number of 0 or mo"),
        (Stage, {**RL, "probe": {**RL, "every": 0}}, "x.probe has no key 'kind'"),
        (Stage, {**REST, "grows": 0}, "x.grows = 0 must be a whole number of 1 or more"),
        (Stage, {**REST, "thresholds": [0.5, NAN]}, "x.thresholds[1] = nan must be a finite number"),
        (Stage, {"kind": "label", "groups": "x", "test": 1}, "x.test = 1.0 must be a number from 0 to below 1"),
        (Stage, {"kind": "offline", "policy": "x", "groups": "x", "judge": "j", "passes": 0}, "x.passes = 0.0 must be"),
        (Algorithm, {"kind": "ppo", "gamma": 5}, "x.gamma = 5.0 must be a number from 0 to 1"),
        (Algorithm, {"kind": "ppo", "kl": -0.1}, "x.kl = -0.1 must be a number of 0 or more"),
        (Algorithm, {"kind": "ppo", "clip": -0.2}, "x.clip = -0.2 must be a number above 0"),
        (Algorithm, {"kind": "apa", "kl": 0}, "x.kl = 0.0 must be a number above 0"),
        (Algorithm, {"kind": "awr", "temperature": 0}, "x.temperature = 0.0 must be a number above 0"),
        (Algorithm, {"kind": "kto", "beta": 0}, "x.beta = 0.0 must be a number above 0"),
        (Algorithm, {"kind": "dpo", "beta": 0}, "x.beta = 0.0 must be a number above 0"),
        (Algorithm, {"kind": "vmpo", "epsilon": 0}, "x.epsilon = 0.0 must be a number above 0"),
        (Algorithm, {"kind": "kwise", "margin": -1}, "x.margin = -1.0 must be a number of 0 or more"),
        (Judge, {"kind": "annotator", "tie_margin": -1}, "x.tie_margin = -1.0 must be a number of 0 or more"),
        (Search, {"kind": "best_of_n", "n": 0}, "x.n = 0 must be a whole number of 1 or more"),
        (Format, {**BOOK, "count": -1}, "x.count = -1 must be a whole number of 0 or more"),
    ],
)
def test_out_of_range_is_refused(protocol: type, table: dict[str, Any], says: str) -> None:
    with pytest.raises(TropismError) as caught:
        build(protocol, table, "x")
    assert str(caught.value).startswith(says)


def test_a_stage_made_in_python_is_held_to_the_same(tmp_path: Path) -> None:
    for stage, says in (
        (Tokenizer(Phrasebook("documents"), vocab_size=-5), "tokenizer.vocab_size = -5 must be a whole number of 1 or"),
        (Tokenizer(Phrasebook("documents", count=-1)), "tokenizer.data.count = -1 must be a whole number of 0 or more"),
    ):
        with Run(tmp_path / "run", reporter=Reporter(quiet=True)) as run, pytest.raises(TropismError, match=says):
            run(stage)
    assert not list((tmp_path / "run").glob("tokenizer*"))
    with pytest.raises(TropismError, match=r"x.optim.lr = -1.0 must be a number above 0"):
        build(Stage, {**SFT, "optim": Optim(lr=-1.0)}, "x")


def test_the_catalogue_shows_the_range_beside_the_default() -> None:
    lines = catalogue("algorithms").splitlines()
    assert "    gamma: float = 1.0 (from 0 to 1)" in lines and "    clip: float = 0.2 (above 0)" in lines
    assert any(
        line.startswith("    pass_tokens: int = ") and "(0 or more)" in line
        for line in catalogue("stages").splitlines()
    )
