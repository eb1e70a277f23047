"""`tropism generate --best-of`: the answers of `-n`, of which the reward model's best is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tiny_recipe import tropism
from tropism.judges.reward_model import RewardModel
from tropism.models.folder import load_scalar, save
from tropism.store.plain import group_from_json


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    words: PreTrainedTokenizerFast,
    make_model: Callable[..., PreTrainedModel],
) -> Path:
    """A policy `lm` and a reward model `reward`, and `asked.txt`."""
    made = tmp_path_factory.mktemp("best_of")
    save(make_model(), words, made / "lm")
    model = load_scalar(made / "lm")
    with torch.no_grad():
        head = model.get_submodule("score").get_parameter("weight")
        head.copy_(torch.randn(head.shape, generator=torch.Generator().manual_seed(0)))
    save(model, words, made / "reward")
    (made / "asked.txt").write_text("three days\nten days\nthree days\n")
    return made


def generate(folder: Path, *options: object) -> Any:
    common = ("--prompts", folder / "asked.txt", "--max-tokens", 6, "--seed", 2)
    return tropism("generate", folder / "lm", *common, *options)


def test_the_best_of_the_same_samples_is_kept(folder: Path, tmp_path: Path) -> None:
    assert generate(folder, "--out", tmp_path / "all.jsonl", "-n", 5).code == 0
    said = generate(folder, "--out", tmp_path / "best.jsonl", "--best-of", 5, "--judge", folder / "reward")
    assert (said.code, said.out) == (0, f"3 prompts answered in {tmp_path / 'best.jsonl'}\n"), said.err
    every, kept = (
        [group_from_json(json.loads(line)) for line in (tmp_path / name).read_text("utf-8").splitlines()]
        for name in ("all.jsonl", "best.jsonl")
    )
    scores = [j.scores for j in RewardModel(str(folder / "reward")).judge(every)]
    at = [max(range(5), key=lambda k: s[k] or 0.0) for s in scores]
    assert len(set(at)) > 1
    assert [g.completions for g in kept] == [(g.completions[k],) for g, k in zip(every, at)]
    assert [g.judgments[0].scores[0] for g in kept] == pytest.approx([s[k] for s, k in zip(scores, at)], abs=1e-5)
    assert [(g.id, g.prompt, len(g.judgments)) for g in kept] == [(g.id, g.prompt, 1) for g in every]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--best-of", 4), "--best-of and --judge go together: give both, or neither"),
        (("--judge", "reward"), "--best-of and --judge go together: give both, or neither"),
        (("--best-of", 4, "--judge", "reward", "-n", 2), "-n 2 keeps 2 completions but --best-of keeps one: leave one"),
        (("--best-of", 4, "--judge", "./nowhere"), "no model is at ./nowhere"),
        (("--best-of", 4, "--judge", "reward", "--temperature", 0), "all 4 greedy completions are the same"),
    ],
)
def test_a_mistake_is_one_sentence(
    folder: Path, tmp_path: Path, options: tuple[object, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    said = generate(folder, "--out", tmp_path / "x.jsonl", *options)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("tropism: ") and says in said.err and said.err.count("\n") == 1
    assert not (tmp_path / "x.jsonl").exists()
