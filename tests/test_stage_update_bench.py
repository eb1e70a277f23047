"""The benchmarks of updates against TRL in small: both sides make the same updates, and a side that differs is noticed."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parent.parent / "bench"


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed: pip install -e '.[bench]'")
@pytest.mark.parametrize(("bench", "shape"), [("reward_step", "2 6 3 5"), ("dpo_step", "4 6 5"), ("sft_step", "4 6 5")])
def test_updates_beside_trl(bench: str, shape: str) -> None:
    said = [sys.executable, f"{bench}.py", "--shape", *shape.split(), "--steps", "1", "--json"]
    found = subprocess.run(said, cwd=BENCH, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stderr
    varied, uniform = json.loads(found.stdout)
    assert varied["lengths"] == "varied" and uniform["lengths"] == "uniform"
    assert (
        uniform["useful_tokens"]
        == {"reward_step": 2 * (6 + 3 * 5), "dpo_step": 4 * (6 + 10), "sft_step": 4 * 11}[bench]
    )
    for row in (varied, uniform):
        assert row["ratio"] == pytest.approx(row["trl_s"] / row["ours_s"])  # one turn
        assert row["trl_s"] == min(row["trl_tried"].values())
        assert len({round(loss, 3) for loss in row["losses"]}) == 2  # the update changed the weights
        assert row["loss_difference"] < 1e-4
    if bench == "dpo_step":
        assert uniform["losses"][0] == pytest.approx(math.log(2))  # the policy is still the reference


def test_lengths_have_the_mean_of_the_shape(stage_update) -> None:
    varied, uniform = (stage_update._lengths(random.Random(1), kind) for kind in ("varied", "uniform"))
    assert {uniform(50) for _ in range(10)} == {50}
    drawn = [varied(50) for _ in range(4000)]
    assert max(drawn) <= 200
    assert statistics.mean(drawn) == pytest.approx(50, rel=0.05)  # exp(-s²/2 + s²/2) = 1
    assert statistics.median(drawn) == pytest.approx(50 * math.exp(-0.18), rel=0.05)


def test_passes_are_equal(stage_update) -> None:
    assert stage_update.passes(84, [4, 12, 1000]) == [1, 7, 21]
    assert stage_update.passes(15, [2, 4, 1000]) == [1, 5, 15]
    assert stage_update.passes(7, [3]) == [7]


def test_losses_that_differ_stop_the_benchmark(stage_update) -> None:
    class Trainer:
        def __init__(self, losses: list[float]) -> None:
            self.losses = iter(losses)

        def training_step(self) -> float:
            return next(self.losses)

        def train(self) -> None:
            for _ in range(2):
                self.training_step()
                self.training_step()
                self.callback.on_step_end()

        def remove_callback(self, _) -> None: ...

        def add_callback(self, callback) -> None:
            self.callback = callback

    class Stage:
        def __init__(self) -> None:
            self.losses: list[float] = []

        def __call__(self) -> dict[str, float]:
            self.losses.append(0.7)
            return {"whole": 1.0}

    class Model:
        num_parameters = staticmethod(lambda: 5)

    row = stage_update.compared(Trainer([0.3, 0.4, 0.4, 0.3005]), 2, Stage(), Model(), "2 passes")
    assert row["loss_difference"] == pytest.approx(0.0005) and row["trl"] == "2 passes" and row["model"] == 5
    with pytest.raises(SystemExit, match="not the same work"):
        stage_update.compared(Trainer([0.3, 0.4, 0.4, 0.302]), 2, Stage(), Model(), "2 passes")


def test_each_side_has_its_own_settings(stage_update) -> None:
    """Deterministic kernels are ours, on a CPU; TRL's trainer has torch's default before and after our step."""
    seen: list[bool] = []

    class Trainer:
        def train(self) -> None:
            seen.append(torch.are_deterministic_algorithms_enabled())
            self.callback.on_step_end()
            seen.append(torch.are_deterministic_algorithms_enabled())

        def remove_callback(self, _) -> None: ...

        def add_callback(self, callback) -> None:
            self.callback = callback

    def step() -> dict[str, float]:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return {"whole": 1.0}

    for before in (True, False):
        torch.use_deterministic_algorithms(before)
        stage_update.Turns(step).train(Trainer())
        assert torch.are_deterministic_algorithms_enabled() == before
    assert seen == [False, not torch.cuda.is_available(), False] * 2


@pytest.fixture(scope="module")
def stage_update():
    sys.path.insert(0, str(BENCH))
    try:
        return importlib.import_module("stage_update")
    finally:
        sys.path.remove(str(BENCH))
