"""Why a stage runs again: the sentence, from two stage.json and from real run folders."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tropism.algorithms.dpo import DPO
from tropism.algorithms.kto import KTO
from tropism.judges.annotator import Annotator
from tropism.judges.verifier import Verifier
from tropism.protocols import Algorithm, Judge
from tropism.recipe.read import Recipe
from tropism.store.again import why
from tropism.store.fingerprint import describe
from tropism.store.folder import latest
from tropism.store.progress import Reporter
from tropism.store.run import run_recipe
from tropism.train.optim import Optim
from tropism.types import ModelRef

REASON = "a file, a model or a store that it reads from outside the run has changed"


class Heard(Reporter):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


@dataclass(frozen=True)
class Step:
    """A stage that copies nothing and learns nothing, with fields of every sort."""

    model: ModelRef | None = None
    steps: int = 5
    algorithm: Algorithm = KTO()
    judges: tuple[Judge, ...] = ()
    betas: tuple[float, ...] = (0.9, 0.95)
    models: dict[str, str] = field(default_factory=dict)
    optim: Optim = Optim(lr=4e-3)

    version: ClassVar[int] = 3
    makes: ClassVar[str] = "policy"

    def run(self, work: Any) -> None:
        (work.out / "x").write_text("x")


def stage_json(stage: Any, **more: Any) -> dict[str, Any]:
    made = {"id": "sft", "fingerprint": "now", "seed": 1, "version": 3, "fields": describe(stage), "inputs": {}}
    return copy.deepcopy(made | more)


def short(completion: str) -> float:
    return -len(completion)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"optim": Optim(lr=3e-3)}, "optim.lr is 0.003 and was 0.004"),
        ({"steps": 6, "betas": (0.9, 0.99)}, "steps is 6 and was 5; betas.1 is 0.99 and was 0.95"),
        (
            {"steps": 6, "betas": (0.9,), "optim": Optim(lr=1.0)},
            "steps is 6 and was 5; betas is [0.9] and was [0.9, 0.95]",
        ),
        ({"algorithm": DPO()}, "algorithm is dpo and was kto"),
        ({"algorithm": KTO(beta=0.2)}, "algorithm.beta is 0.2 and was 0.1"),
        ({"models": {"a": "x"}}, "models.a is x and was not set"),
        ({"model": "base"}, "model is base and was not set"),
        ({}, REASON),
    ],
)
def test_a_changed_field_is_named_with_both_values(change: dict[str, Any], says: str) -> None:
    before = stage_json(Step(), fingerprint="before")
    assert why(stage_json(dataclasses.replace(Step(), **change)), before) == says


def test_a_long_value_is_cut() -> None:
    said = why(stage_json(Step(judges=(Annotator(),))), stage_json(Step(), fingerprint="before"))
    assert said.startswith("judges is [{'kind': 'tropism.judges.annotator:Annotator'") and said.endswith("… and was []")


def test_what_a_version_computes_differently() -> None:
    before = stage_json(Step(), fingerprint="before", version=2)
    assert why(stage_json(Step()), before) == (
        "this version of tropism computes it differently (the stage's version is 3 and was 2)"
    )
    before = stage_json(Step(), fingerprint="before")
    before["fields"]["optim"]["rate"] = before["fields"]["optim"].pop("lr")  # renamed since
    assert why(stage_json(Step()), before) == (
        "this version of tropism computes it differently (the field optim.lr is new, the field optim.rate is gone)"
    )
    before["fields"]["steps"] = 9  # a person's own change comes first
    assert why(stage_json(Step()), before).startswith("steps is 5 and was 9; this version of tropism computes it")
    before = stage_json(Step(), fingerprint="before")
    before["fields"]["optim"]["kind"] = "tropism.optim:Optim"
    assert why(stage_json(Step()), before) == "this version of tropism computes it differently (optim has moved)"


def test_seed_inputs_code_and_damage() -> None:
    before = stage_json(Step("base"), fingerprint="before", seed=2, inputs={"base": "aa", "words": "cc"})
    now = stage_json(Step("base"), inputs={"base": "bb", "words": "cc"})
    assert why(now, before) == "the seed of the recipe has changed; its input base was made again"
    assert why(now, {**now, "fingerprint": "before"}) == REASON
    assert why(now, now) == "its files were changed or removed since it was done"
    judged = stage_json(Step(judges=(Verifier(short),)))
    old = stage_json(Step(judges=(Verifier(short),)), fingerprint="before")
    (judge,) = old["fields"]["judges"]
    judge["function"] = judge["function"].rpartition("@")[0] + "@0123456789abcdef"
    assert why(judged, old) == f"the code of {__name__}:short has changed"
    old = stage_json(Step(), fingerprint="before")
    old["fields"]["source"] = "0123"
    assert why(stage_json(Step()), old) == f"the code of {__name__}:Step has changed"


def ran(folder: Path, **stages: Step) -> list[str]:
    heard = Heard()
    run_recipe(Recipe("r", 0, stages), folder, reporter=heard)
    return [line for line in heard.lines if "runs again" in line]


def test_a_run_says_why_a_stage_runs_again(tmp_path: Path) -> None:
    slower = Step("base", optim=Optim(lr=3e-3))
    assert ran(tmp_path, base=Step(), sft=Step("base"), ppo=Step("sft")) == []
    assert ran(tmp_path, base=Step(), sft=Step("base"), ppo=Step("sft")) == []
    assert ran(tmp_path, base=Step(), sft=slower, ppo=Step("sft")) == [
        "sft: runs again: optim.lr is 0.003 and was 0.004",
        "ppo: runs again: its input sft was made again",
    ]
    assert ran(tmp_path, base=Step(), sft=Step("base"), ppo=Step("sft")) == []  # those of the first time
    (latest(tmp_path)["sft"] / "out" / "x").write_text("y")
    said = ran(tmp_path, base=Step(), sft=Step("base"), other=Step("base", steps=7))
    assert said == ["sft: runs again: its files were changed or removed since it was done"]


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_text('{"fields": {}}')])
def test_a_run_that_left_no_word_is_passed_over(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    ran(tmp_path, sft=Step())
    spoil(latest(tmp_path)["sft"] / "stage.json")
    assert ran(tmp_path, sft=Step(steps=6)) == []
