"""Families that differ in what they are made of, tiny: each column of docs/models.md, as `bench/models.py` tries them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"
FAMILIES = {  # in what each is unlike the others
    "gpt2": ("shared", "pages"),  # learned positions
    "llama": ("shared", "pages"),
    "gemma2": ("shared", "pages"),  # every other layer a window, caps, eager attention
    "gpt_oss": ("shared", "pages"),  # experts, sinks, windows
    "bloom": ("padded", "cached"),  # distances in place of positions
    "mamba": ("padded", "cached"),  # states
    "falcon_h1": ("padded", "cached"),  # attention and states side by side, a multiplier on the logits
    "recurrent_gemma": ("padded", "again"),  # a recurrence and windows, a cap on the logits
    "lfm2": ("padded", "cached"),  # convolutions and attention
    "qwen3_5": ("padded", "cached"),  # linear attention, a nested config
    "xlm-roberta-xl": ("padded", "again; generate departs from plain calls"),  # positions that skip padding tokens
}


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.insert(0, str(BENCH))
    spec = importlib.util.spec_from_file_location("bench_models", BENCH / "models.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    sys.modules["bench_models"] = made
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_works_in_every_column(bench: ModuleType, kind: str, tmp_path: Path):
    row = bench.family(kind, tmp_path)
    assert bench.works(row), row
    assert (row["rows"], row["engine"]) == tuple(f"yes, {what}" for what in FAMILIES[kind])


def test_a_model_that_says_something_else_in_a_batch_is_seen(bench: ModuleType, tmp_path: Path, monkeypatch):
    """The columns can fail: where every row begins with the first row's token, rows in a batch are not rows alone."""
    from tropism.models import forward

    right = forward.hidden

    def wrong(model, batch):
        tokens_BT = batch.tokens_BT.clone()
        tokens_BT[:, 0] = tokens_BT[0, 0]
        return right(model, batch.replace(tokens_BT=tokens_BT))

    monkeypatch.setattr(forward, "hidden", wrong)
    assert "log-probabilities differ by" in bench.family("bloom", tmp_path)["rows"]


def test_the_page_names_every_family_of_the_table(bench: ModuleType):
    text = (BENCH.parent / "docs" / "models.md").read_text(encoding="utf-8")
    named = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")}
    missing = set(bench.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - named
    assert not missing
