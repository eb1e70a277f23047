"""When the reward stage stops, and which weights it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stages.test_stages_reward import GROUPS, cut_off, written
from tropism.stages import _plateau
from tropism.stages.reward import Reward
from tropism.store.folder import done, read_metrics
from tropism.store.run import Run
from tropism.tensors.ratio import Ratio
from tropism.train.optim import Optim

SHAPE: dict[str, Any] = {"score": "likelihood", "groups_per_step": 4, "validation": 0.5, "optim": Optim(lr=1e-2)}


def scripted(monkeypatch: pytest.MonkeyPatch, *losses: float) -> list[dict[str, Any]]:
    """Makes the looks say these losses; returns the weights that each of them saw."""
    said, seen = iter(losses), []

    def measure(models: dict[str, Any], *_: Any) -> dict[str, Ratio]:
        seen.append({name: value.clone() for name, value in models["scorer"].state_dict().items()})
        return {"loss": Ratio(torch.tensor(next(said) * 3), torch.tensor(3))}

    monkeypatch.setattr(_plateau, "measure", measure)
    return seen


def test_it_stops_after_so_many_looks_without_a_better_one_and_keeps_the_best(
    run: Run, model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 is best at the second look; 6, 4 and 7 are no better, and the third of them ends it: the 1 is never seen."""
    seen = scripted(monkeypatch, 5.0, 4.0, 6.0, 4.0, 7.0, 1.0)
    out = run(Reward(model_folder, written(GROUPS, tmp_path / "g"), "people", passes=8.0, looks=8, patience=3, **SHAPE))
    meta = done(out.parent)
    assert meta is not None and len(seen) == 5
    steps = round(8.0 * meta["facts"]["groups"] / 4)
    assert meta["facts"]["steps"] == -(-steps * 5 // 8) and meta["facts"]["best_step"] == -(-steps * 2 // 8)
    left = load_file(out / "model.safetensors")
    best, last = seen[1], seen[-1]
    assert all(value.equal(best[name]) for name, value in left.items())
    assert any(not value.equal(last[name]) for name, value in left.items())
    looked = [line["validation_loss"] for line in read_metrics(out.parent) if "validation_loss" in line]
    assert looked == [5.0, 4.0, 6.0, 4.0, 7.0]


def test_cut_off_after_the_best_look_it_still_leaves_the_best_weights(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best weights come out of the checkpoint."""
    path, losses = written(GROUPS, tmp_path / "g"), (5.0, 4.0, 6.0, 4.0, 7.0, 5.0, 5.0, 6.0)
    stage = Reward(model_folder, path, "people", passes=8.0, looks=8, patience=8, **SHAPE)
    scripted(monkeypatch, *losses)
    with Run(tmp_path / "whole") as run:
        whole = run(stage, "reward")
    meta = done(whole.parent)
    assert meta is not None
    scripted(monkeypatch, *losses)
    again, _ = cut_off(stage, meta["facts"]["steps"] - 2, tmp_path / "cut", monkeypatch)
    for name in ("model.safetensors", "config.json"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_too_few_groups_to_look_at_leave_all_of_them_to_training(run: Run, model_folder: str, tmp_path: Path) -> None:
    out = run(Reward(model_folder, written(GROUPS, tmp_path / "g"), "people", passes=1.0, validation=0.1))
    meta = done(out.parent)
    assert meta is not None
    assert (meta["facts"]["groups"], meta["facts"]["validation_groups"]) == (32, 0)
