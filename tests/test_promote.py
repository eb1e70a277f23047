"""The gate: what leaves a run, what does not, and what it says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tiny_recipe import tropism
from tropism.models.adapters import Adapter
from tropism.models.folder import save
from tropism.models.weights import Weights
from tropism.store import files
from tropism.store.folder import latest

FIGURES = {
    "sft": {"n": 9, "quality": {"value": 0.5, "low": 0.45, "high": 0.55}, "chrf": {"value": 60, "low": 58, "high": 62}},
    "ppo": {"n": 9, "quality": {"value": 0.7, "low": 0.65, "high": 0.75}, "chrf": {"value": 63, "low": 61, "high": 65}},
    "lora": {
        "n": 9,
        "quality": {"value": 0.6, "low": 0.56, "high": 0.64},
        "chrf": {"value": 70, "low": 69, "high": 71},
    },
    "hub": {"n": 9, "quality": {"value": 0.9, "low": 0.8, "high": 1.0}},
}
INPUTS = {"sft": "f-sft", "ppo-2": "f-ppo-2", "lora": "f-lora"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., PreTrainedModel], words: Any) -> Path:
    """A run with two models, an adapter, and an evaluation of them and of one from elsewhere."""
    folder = tmp_path_factory.mktemp("promote") / "run"
    for seed, id in enumerate(("sft", "ppo-2", "lora")):
        out = folder / f"{id}-01" / "out"
        if id == "lora":
            adapted = Weights(adapter=Adapter(r=2)).train_lm(str(folder / "sft-01" / "out"), 0)
            for parameter in adapted.parameters():
                parameter.data += 0.1 * parameter.requires_grad
            save(adapted, words, out)
        else:
            save(make_model(seed=seed), words, out)
        finish(folder, id, {"kind": "tropism.stages.rl:RL"}, {})
    models = {"sft": "sft", "ppo": "ppo-2", "lora": "lora", "hub": "some/hub-id"}
    (folder / "evaluation-01" / "out").mkdir(parents=True)
    files.write_json(folder / "evaluation-01" / "out" / "evaluation.json", {"over": "sft", "models": FIGURES})
    finish(folder, "evaluation", {"kind": "tropism.stages.evaluate:Evaluate", "models": models}, INPUTS)
    return folder


def finish(folder: Path, id: str, fields: dict[str, Any], inputs: dict[str, str]) -> None:
    stage = folder / f"{id}-01"
    mark = {"id": id, "fingerprint": f"f-{id}", "fields": fields, "inputs": inputs}
    files.write_json(stage / "stage.json", mark)
    files.seal(stage, {"seconds": 1.0, "facts": {}}, "DONE")
    ids = [i for i in ("sft", "ppo-2", "lora", "evaluation") if (folder / f"{i}-01").exists()]
    files.write_json(
        folder / "recipe.json", {"name": "r", "stages": {i: {} for i in ids}, "folders": {i: f"{i}-01" for i in ids}}
    )


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def left_nothing(parent: Path) -> bool:
    return [f.name for f in parent.iterdir()] == ["run"]


def test_a_better_model_leaves_with_the_figures_that_let_it_out(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "served"
    said = tropism("promote", run, "ppo", "--out", out)
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        "in quality ppo has 0.7 [0.65, 0.75] and sft has 0.5 [0.45, 0.55]",
        f"the model:       {out}",
    ]
    source = run / "ppo-2-01" / "out"
    assert {f.name for f in out.iterdir()} == {f.name for f in source.iterdir()} | {"manifest.json"}
    assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert AutoModelForCausalLM.from_pretrained(out).num_parameters() > 0
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert files.sealed(out) == {
        "model": "ppo",
        "over": "sft",
        "metric": "quality",
        "figures": {name: FIGURES[name]["quality"] for name in ("ppo", "sft")},
        "recipe": "r",
    }


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        # 61 to 65 and 58 to 62 overlap, though either value is outside the other's interval
        (("ppo", "--metric", "chrf"), "in chrf ppo has 63 [61, 65] and sft has 60 [58, 62]"),
        (("lora", "--over", "ppo"), "in quality lora has 0.6 [0.56, 0.64] and ppo has 0.7 [0.65, 0.75]"),
        (("ppo", "--over", "ppo"), "in quality ppo has 0.7 [0.65, 0.75] and ppo has 0.7 [0.65, 0.75]"),
    ],
)
def test_a_model_that_is_not_shown_to_be_better_stays(run: Path, tmp_path: Path, asked: Any, says: str) -> None:
    said = tropism("promote", run, *asked, "--out", tmp_path / "served")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"tropism: {asked[0]} is not promoted: {says} on held-out prompts, and the interval of")
    assert said.err.count("\n") == 1
    assert left_nothing(tmp_path)


def test_intervals_that_touch_are_not_apart(run: Path, tmp_path: Path) -> None:
    touching = {**FIGURES, "ppo": {"quality": {"value": 0.6, "low": 0.55, "high": 0.65}}}
    files.write_json(run / "evaluation-01" / "out" / "evaluation.json", {"over": "sft", "models": touching})
    finish(run, "evaluation", json.loads((run / "evaluation-01" / "stage.json").read_text())["fields"], INPUTS)
    assert tropism("promote", run, "ppo", "--out", tmp_path / "served").code == 2
    assert left_nothing(tmp_path)


@pytest.mark.parametrize(
    ("better", "code", "says"),
    [
        ("lower", 0, ""),
        ("higher", 2, "the interval of ppo is not above the other"),
        ("", 2, "the metric slips has no better direction"),
    ],
)
def test_the_figure_says_which_way_is_better(run: Path, tmp_path: Path, better: str, code: int, says: str) -> None:
    slips = {
        "sft": {"slips": {"value": 0.6, "low": 0.5, "high": 0.7}},
        "ppo": {"slips": {"value": 0.3, "low": 0.2, "high": 0.4}},
    }
    about = {"slips": {"title": "slips of the pen", "unit": "share", "better": better}}
    found = {"over": "sft", "models": slips, "measures": about}
    files.write_json(run / "evaluation-01" / "out" / "evaluation.json", found)
    finish(run, "evaluation", json.loads((run / "evaluation-01" / "stage.json").read_text())["fields"], INPUTS)
    said = tropism("promote", run, "ppo", "--metric", "slips", "--out", tmp_path / "served")
    assert said.code == code and says in said.err


def test_over_and_metric_choose_what_decides(run: Path, tmp_path: Path) -> None:
    said = tropism("promote", run, "lora", "--over", "ppo", "--metric", "chrf", "--out", tmp_path / "served")
    assert said.code == 0, said.err
    assert said.out.startswith("in chrf lora has 70 [69, 71] and ppo has 63 [61, 65]\n")


def test_wins_are_held_against_one_half(run: Path, tmp_path: Path) -> None:
    """A model's wins over itself are no measurement, so the other model has none."""
    won = {"sft": {}, "ppo": {"win_over_sft": {"value": 0.55, "low": 0.51, "high": 0.6}}}
    won["lora"] = {"win_over_sft": {"value": 0.55, "low": 0.5, "high": 0.6}}
    files.write_json(run / "evaluation-01" / "out" / "evaluation.json", {"over": "sft", "models": won})
    finish(run, "evaluation", json.loads((run / "evaluation-01" / "stage.json").read_text())["fields"], INPUTS)
    said = tropism("promote", run, "ppo", "--metric", "win_over_sft", "--out", tmp_path / "served")
    assert said.code == 0 and said.out.startswith("in win_over_sft ppo has 0.55 [0.51, 0.6]\n")
    said = tropism("promote", run, "lora", "--metric", "win_over_sft", "--out", tmp_path / "other")
    assert (
        said.code == 2
        and "lora has 0.55 [0.5, 0.6] on held-out prompts, and that interval is not above one half" in said.err
    )


@torch.no_grad()
def test_an_adapter_leaves_as_a_plain_model(run: Path, tmp_path: Path) -> None:
    assert tropism("promote", run, "lora", "--out", tmp_path / "served").code == 0
    names = {f.name for f in (tmp_path / "served").iterdir()}
    assert "model.safetensors" in names and not any(name.startswith("adapter") for name in names)
    before = AutoModelForCausalLM.from_pretrained(run / "sft-01" / "out").eval()
    shutil.rmtree(run)  # it stands alone
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "served").eval()
    assert after.num_parameters() == before.num_parameters()
    tokens = torch.arange(6)[None]
    assert (after(tokens).logits - before(tokens).logits).abs().max() > 0.01
    assert files.sealed(tmp_path / "served") is not None


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("pppo",), "has no evaluated model 'pppo': choose one of sft, ppo, lora, hub"),
        (("ppo", "--over", "base"), "has no evaluated model 'base': choose one of sft, ppo, lora, hub"),
        (("ppo", "--metric", "bleu"), "has no figure 'bleu' of ppo: choose one of quality, chrf"),
        (("ppo", "--metric", "n"), "has no figure 'n' of ppo: choose one of quality, chrf"),
        (("hub",), "hub is some/hub-id, which is not a finished, undamaged stage of"),
    ],
)
def test_what_is_not_there_is_named(run: Path, tmp_path: Path, asked: Any, says: str) -> None:
    said = tropism("promote", run, *asked, "--out", tmp_path / "served")
    assert said.code == 2 and says in said.err and said.err.count("\n") == 1
    assert left_nothing(tmp_path)


def test_a_run_without_an_evaluation(run: Path, tmp_path: Path) -> None:
    (run / "evaluation-01" / "DONE").unlink()
    said = tropism("promote", run, "ppo", "--out", tmp_path / "served")
    assert said.code == 2 and "has no evaluated model 'ppo': choose one of none yet" in said.err


def test_a_damaged_model_stays(run: Path, tmp_path: Path) -> None:
    with open(run / "ppo-2-01" / "out" / "model.safetensors", "r+b") as file:
        file.write(b"x")
    said = tropism("promote", run, "ppo", "--out", tmp_path / "served")
    assert said.code == 2 and "ppo is ppo-2, which is not a finished, undamaged stage of" in said.err


def test_a_model_that_was_made_anew_since_it_was_measured_stays(run: Path, tmp_path: Path) -> None:
    mark = json.loads((run / "ppo-2-01" / "stage.json").read_text())
    files.write_json(run / "ppo-2-01" / "stage.json", {**mark, "fingerprint": "another"})
    files.seal(run / "ppo-2-01", {"seconds": 1.0, "facts": {}}, "DONE")
    assert latest(run)["ppo-2"].name == "ppo-2-01"
    said = tropism("promote", run, "ppo", "--out", tmp_path / "served")
    assert said.code == 2 and "ppo was made again since it was evaluated" in said.err
    assert left_nothing(tmp_path)


def test_a_folder_in_use_is_left_alone_and_an_empty_one_is_filled(run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for taken in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        said = tropism("promote", run, "ppo", "--out", taken)
        assert said.code == 2 and f"{taken} exists and is not empty: give another --out" in said.err
    assert [f.read_text() for f in (tmp_path / "full").iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    assert tropism("promote", run, "ppo", "--out", tmp_path / "empty").code == 0


def test_a_copy_that_breaks_off_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, copied = shutil.copy2, []

    def broken(source: Any, target: Any, **more: Any) -> Any:
        if copied:
            raise KeyboardInterrupt
        copied.append(target)
        return copy(source, target, **more)

    monkeypatch.setattr(shutil.copytree, "__defaults__", (False, None, broken, False, False))
    said = tropism("promote", run, "ppo", "--out", tmp_path / "served")
    assert copied and said.code == 130
    assert left_nothing(tmp_path)
