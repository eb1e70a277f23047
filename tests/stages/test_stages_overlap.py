"""How many prompts of an evaluation or a probe stand in a training set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tropism.formats.chat import Chat
from tropism.formats.prompts import Prompts
from tropism.formats.text import Text
from tropism.judges.verifier import Verifier
from tropism.models.architecture import Architecture
from tropism.stages._probe import Probe
from tropism.stages.evaluate import Evaluate
from tropism.stages.pretrain import Pretrain
from tropism.stages.rl import RL
from tropism.stages.sft import SFT
from tropism.store.folder import done
from tropism.store.run import Run
from tropism.types import SamplingParams

SHORT = SamplingParams(n=2, max_tokens=2)
SMALL = Architecture(width=16, layers=1, heads=2, context=128)


def letters(completion: str) -> float:
    return float(len(completion))


@pytest.fixture
def trained(run: Run, model_folder: str, tmp_path: Path) -> dict[str, Path]:
    """Documents that hold the prompts "two" and "two / lines", demonstrations of "one?" and, behind it, "two?"."""
    (tmp_path / "documents.txt").write_text("zero\n two \n\nsome lines\nand two\nlines")
    said = [{"role": role, "content": text} for role, text in (("user", "one?"), ("assistant", "1"), ("user", "two?"))]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": [*said, {"role": "assistant", "content": "2"}]}))
    data = Text(str(tmp_path / "documents.txt"), separator="\n\n")
    shape = {"model": SMALL, "steps": 1, "tokens_per_step": 32, "held_out": 0.0}
    base = run(Pretrain(data, tokenizer=model_folder, **shape), "base")  # type: ignore[arg-type]
    chats = Chat(str(tmp_path / "chats.jsonl"))
    sft = run(SFT("base", chats, chat_template="tropism", steps=1, groups_per_step=1), "sft")
    return {"base": base, "sft": sft}


def asked(run: Run, *prompts: str, model: str = "sft") -> dict[str, Any]:
    out = run(Evaluate({"sft": model}, Prompts(prompts=prompts), sampling=SHORT), "evaluation")
    return json.loads((out / "evaluation.json").read_text("utf-8"))["overlap"]


def test_an_evaluation_counts_the_prompts_that_each_stage_has_met(run: Run, trained: dict[str, Path]) -> None:
    assert asked(run, "three?", "tw") == {"prompts": 2, "met": 0, "stages": {"base": 0, "sft": 0}}
    found = asked(run, "one? ", "two", "lines\nzero", "lines\nnine", "three?")
    assert found == {"prompts": 5, "met": 3, "stages": {"base": 2, "sft": 1}}


def test_a_model_of_another_run_tells_too_and_one_from_elsewhere_tells_nothing(
    tmp_path: Path, trained: dict[str, Path], model_folder: str
) -> None:
    with Run(tmp_path / "second") as other:
        assert asked(other, "one?", model=str(trained["sft"]))["stages"] == {"base": 0, "sft": 1}
        assert asked(other, "one?", model=model_folder) == {"prompts": 1, "met": 0, "stages": {}}


def test_a_probe_counts_what_its_own_stage_learns_from(run: Run, trained: dict[str, Path]) -> None:
    probe = Probe(Prompts(prompts=("one?", "four?", "five?")), Verifier(letters), sampling=SHORT)
    prompts = Prompts(prompts=("four?", "six?"))
    rl = RL("sft", prompts, Verifier(letters), rounds=1, prompts_per_round=2, sampling=SHORT, probe=probe)
    meta = done(run(rl, "rl").parent)
    assert meta is not None and meta["facts"]["probe_prompts_trained_on"] == 2
