"""`bench/rl_step.py` in small: what it prints, and that both sides read and write as many tokens as a shape says."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tropism.text.tokenizer import train_tokenizer

BENCH = Path(__file__).parent.parent / "bench"
KEYS = {"model", "shape", "ours_s", "trl_s", "ratio", "low", "high", "parts"}


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed: pip install -e '.[bench]'")
@pytest.mark.parametrize("kind", ["gpt_neox", "qwen2"])
def test_a_step_beside_trl(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that has more stop tokens than its tokenizer, and likes them: each side checks its lengths itself."""
    monkeypatch.syspath_prepend(str(BENCH))
    words = train_tokenizer([chr(i) for i in range(32, 127)], 300)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(importlib.import_module("tiny_models").tiny(kind, 320))
    model.generation_config.eos_token_id = [words.eos_token_id, *range(20, 90)]
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    said = [sys.executable, "rl_step.py", "--model", tmp_path, "--steps", "1", "--json"]
    said += ["--shape", "3", "40", "5", "17", "--shape", "1", "1", "2", "3"]
    found = subprocess.run(said, cwd=BENCH, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stderr
    rows = json.loads(found.stdout)
    assert [row["shape"] for row in rows] == [[3, 40, 5, 17], [1, 1, 2, 3]]
    for row in rows:
        assert row.keys() >= KEYS and {"sample", "reference", "update"} <= row["parts"].keys()
        assert row["model"] == model.num_parameters()
        assert row["ratio"] == row["low"] == row["high"] == pytest.approx(row["trl_s"] / row["ours_s"])  # one turn


def test_texts_have_as_many_tokens_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    texts = importlib.import_module("rl_sides").texts
    words = train_tokenizer(["the cat and the hat " * 20], 280)  # has tokens of several letters
    words.save_pretrained(tmp_path)
    assert len(words("the")["input_ids"]) < 3
    found = texts(tmp_path, 20, 9)
    assert len(found) == 20 and {len(words(text)["input_ids"]) for text in found} == {8}
    assert texts(tmp_path, 2, 1) == ["", ""]
