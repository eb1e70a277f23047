"""One update on two ranks is one update on one, for every algorithm; their weights stay equal bit for bit; a recipe run by
two processes gives the figures that one gives.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_invariants_resume import assert_equal
from test_invariants_update import ALGORITHMS, forest, layouts, mixes, updated
from test_invariants_update import models as models  # the fixture
from torch import Tensor
from transformers import PreTrainedModel

from tiny_recipe import CIRCLE, Kill, tropism
from tropism.algorithms.nll import NLL
from tropism.tensors.batch import Batch
from tropism.tensors.collate import collate
from tropism.train.loop import Learner, NotFinite
from tropism.train.optim import Optim
from two_ranks import tropism_on_two, two_ranks

Weights = dict[str, Tensor]


def batches() -> dict[str, tuple[Batch, int]]:
    """Of all layouts of a batch, the one row among them, and of one group: there the second rank has nothing."""
    return layouts() | {"one group": (collate(forest()[2:3]), 0)}


@dataclasses.dataclass(frozen=True)
class Broken(NLL):
    """A loss that is not a number wherever a given group is; with `late`, one whose gradient is not."""

    group: str = ""
    late: bool = False

    def loss(self, batch: Batch, prediction: Any) -> Any:
        loss, more = super().loss(batch, prediction)
        if self.group in batch.ids:
            wrong = (loss.total * 0).sqrt() if self.late else loss.total * math.nan
            loss = dataclasses.replace(loss, total=loss.total + wrong)
        return loss, more


def stopped(policy: PreTrainedModel, algorithm: Broken) -> tuple[str, float]:
    """What an update says that cannot be made, and how far the weights have moved."""
    learner = Learner({"policy": copy.deepcopy(policy)}, Optim(lr=1.0), 1)
    try:
        learner.update(algorithm, collate(forest(), shared=False))
        said = "nothing"
    except NotFinite as error:
        said = str(error)
    moved = [(a - b).abs().max() for a, b in zip(learner.models["policy"].parameters(), policy.parameters())]
    return said, float(max(moved))


def trained(policy: PreTrainedModel, rank: int) -> Weights:
    """After three updates with AdamW, begun on rank 1 from weights of its own."""
    learning = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in learning.parameters():
            parameter.add_(rank)
    learner = Learner({"policy": learning}, Optim(lr=0.01), 3)
    for batch in (collate(forest()), collate(forest()[:1]), collate(forest()[1:], shared=False)):
        learner.update(NLL(), batch)
    return {name: p.detach() for name, p in learning.named_parameters()}


def work(rank: int, path: Path) -> dict[str, Any]:
    """Everything that takes two processes, in one go."""
    models = torch.load(path, weights_only=False)
    return {
        "updated": [{n: updated(models, a, *batch) for n, batch in batches().items()} for a in ALGORITHMS],
        "mixed": {name: updated(models, *mix) for name, mix in mixes().items()},
        "stopped": {
            (group, late): stopped(models["policy"], Broken(group, late)) for group in ("g2", "g3") for late in (0, 1)
        },
        "trained": trained(models["policy"], rank),
    }


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    """What the two ranks found, once for all tests."""
    return {}


@pytest.fixture
def ranks(models: dict[str, PreTrainedModel], tmp_path: Path, kept: dict[str, Any]) -> list[dict[str, Any]]:
    if not kept:
        torch.save(models, tmp_path / "models.pt")
        kept["ranks"] = two_ranks(work, tmp_path / "models.pt")
        assert all(isinstance(found, dict) for found in kept["ranks"]), kept["ranks"]
    return kept["ranks"]


def worst(a: Weights, b: Weights) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max()) for n in a)


@pytest.mark.parametrize("number", range(len(ALGORITHMS)), ids=lambda n: f"{n} {type(ALGORITHMS[n]).__name__}")
def test_an_update_on_two_ranks_is_one_on_one(
    models: dict[str, PreTrainedModel], ranks: list[dict[str, Any]], number: int
):
    for name, batch in batches().items():
        expected, numbers = updated(models, ALGORITHMS[number], *batch)
        (first, metrics), (second, others) = (found["updated"][number][name] for found in ranks)
        assert worst(first, expected) < 1e-6, name
        assert worst(first, second) == 0, name
        assert metrics == pytest.approx(others, rel=0, abs=0, nan_ok=True), name
        assert metrics == pytest.approx(numbers, rel=1e-4, abs=1e-5, nan_ok=True), name


@pytest.mark.parametrize("name", mixes())
def test_documents_mixed_in_on_two_ranks_are_those_mixed_in_on_one(
    models: dict[str, PreTrainedModel], ranks: list[dict[str, Any]], name: str
):
    """The update is plain gradient descent at rate 1, so equal weights are equal gradients."""
    algorithm, batch, pass_tokens, mixed = mixes()[name]
    expected, numbers = updated(models, algorithm, batch, pass_tokens, mixed)
    (first, metrics), (second, others) = (found["mixed"][name] for found in ranks)
    assert worst(first, expected) < 1e-6 and worst(first, second) == 0
    assert metrics == pytest.approx(others, rel=0, abs=0, nan_ok=True)
    assert metrics == pytest.approx(numbers, rel=1e-4, abs=1e-5, nan_ok=True)
    without, _ = updated(models, algorithm, batch, pass_tokens)
    assert worst(expected, without) > 1e-3  # the documents have a say


def test_weights_stay_equal_bit_for_bit(models: dict[str, PreTrainedModel], ranks: list[dict[str, Any]]):
    first, second = (found["trained"] for found in ranks)
    assert worst(first, second) == 0
    assert worst(first, trained(models["policy"], 0)) < 1e-3  # AdamW magnifies rounding
    assert worst(first, {n: p.detach() for n, p in models["policy"].named_parameters()}) > 1e-2


def test_what_is_not_finite_on_one_rank_stops_both(models: dict[str, PreTrainedModel], ranks: list[dict[str, Any]]):
    for found in ranks:
        for (group, late), (said, moved) in found["stopped"].items():
            what = "the gradient of the policy is not finite" if late else "the loss is not finite"
            assert said.startswith(f"{what} at step 1, in a batch of the groups "), (group, late)
            assert group in said
            assert moved == 0
    assert ranks[0]["stopped"] == ranks[1]["stopped"]


def figures(out: Path) -> dict[str, Any]:
    """The report, seconds apart, as key → value."""
    flat: dict[str, Any] = {}

    def walk(key: str, value: Any) -> None:
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
        if inside is None:
            flat[key] = value
        for k, v in inside or ():
            walk(f"{key}.{k}", v)

    report = json.loads((out / "report.json").read_text("utf-8"))
    walk("", {name: value for name, value in report.items() if name != "seconds"})
    return flat


def shape(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*")}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks") / "circle.toml"
    path.write_text(CIRCLE)
    return path


@pytest.fixture(scope="module")
def by_two(recipe: Path) -> Path:
    """The run folder of two processes, started as the documents say."""
    out, scratch = recipe.parent / "two" / "run", recipe.parent / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tropism.cli", "run", str(recipe), "--out", str(out), "--quiet", "--checkpoint-s", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(scratch)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    assert not list(scratch.glob("tmp*"))  # what the second process made is gone
    return out


def test_a_recipe_run_by_two_processes(recipe: Path, by_two: Path, tmp_path: Path):
    by_one = tmp_path / "run"
    assert tropism("run", recipe, "--out", by_one, "--quiet").code == 0
    assert shape(by_two) == shape(by_one)
    for path in by_one.glob("*/metrics.jsonl"):
        written = (by_two / path.relative_to(by_one)).read_text("utf-8")
        assert written.count("\n") == path.read_text("utf-8").count("\n"), path
    ours, theirs = figures(by_two), figures(by_one)
    assert ours.keys() == theirs.keys()
    assert len([v for v in ours.values() if isinstance(v, float)]) > 50
    for key, value in theirs.items():
        if isinstance(value, float):
            # figures have four digits, of which the last may be rounded the other way
            assert ours[key] == pytest.approx(value, abs=1.5e-4, nan_ok=True), key
        else:
            assert ours[key] == value, key


def test_two_processes_of_which_the_first_is_killed(recipe: Path, by_two: Path, tmp_path: Path):
    """The second ends by itself; continued by two, the run is the uninterrupted one, bit for bit."""
    words = ("run", recipe, "--out", tmp_path / "run", "--quiet", "--checkpoint-s", "0")
    for kills in range(10):
        first, second = tropism_on_two(*words, kill=Kill(5, after=kills % 2 == 0, checkpoint=True))
        if first == 0:
            break
        assert (first, second) == (-signal.SIGKILL, 2)
    assert (first, second) == (0, 0)
    assert kills >= 2
    assert_equal(tmp_path / "run", by_two)
