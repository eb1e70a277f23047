"""`tropism merge`: plain weights that say what base and adapter said."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from tiny_recipe import tropism
from tropism.models.adapters import Adapter
from tropism.models.folder import save
from tropism.models.forward import predict_scores
from tropism.models.weights import Weights
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree

LORA = Weights(adapter=Adapter(r=4, alpha=8))
BATCH = collate([Tree("g", (7, 8, 9), ((10, 11, 12), (13,)), ((True,) * 3, (True,)), (True, True))])


@pytest.fixture
def base(make_model: Callable[..., PreTrainedModel], words, tmp_path: Path) -> str:
    save(make_model(), words, tmp_path / "base")
    return str(tmp_path / "base")


def shaken(model: PreTrainedModel) -> PreTrainedModel:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def test_the_merged_model_is_plain_and_says_the_same(base: str, words, tmp_path: Path) -> None:
    save(shaken(LORA.train_lm(base, 0)), words, tmp_path / "lora")
    said = tropism("merge", tmp_path / "lora", "--out", tmp_path / "plain")
    assert (said.code, said.err) == (0, "")
    assert said.out == f"the model:       {tmp_path / 'plain'}\n"
    assert not list((tmp_path / "plain").glob("adapter*"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "lora").eval()
    before = AutoModelForCausalLM.from_pretrained(base).eval()
    assert plain.num_parameters() == before.num_parameters()
    tokens = torch.randint(len(words), (2, 9))
    found, expected, start = (m(tokens).logits.log_softmax(-1) for m in (plain, theirs, before))
    assert (found - expected).abs().max() < 1e-5
    assert (found - start).abs().max() > 0.1
    assert AutoTokenizer.from_pretrained(tmp_path / "plain").chat_template == words.chat_template


@torch.no_grad()
def test_a_reward_model_stays_one(base: str, words, tmp_path: Path) -> None:
    reward = shaken(LORA.train_scalar(base, 0))
    save(reward, words, tmp_path / "rm")
    assert tropism("merge", tmp_path / "rm", "--out", tmp_path / "plain").code == 0
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    assert plain.config.num_labels == 1
    assert torch.allclose(predict_scores(plain, BATCH), predict_scores(reward, BATCH), atol=1e-5)


def test_what_is_no_adapter_is_refused_in_one_sentence(base: str, words, tmp_path: Path) -> None:
    for folder in (base, tmp_path / "nowhere"):
        said = tropism("merge", folder, "--out", tmp_path / "plain")
        assert said.code == 2
        assert said.err.startswith(f"tropism: {folder} is not an adapter") and said.err.count("\n") == 1
    assert not (tmp_path / "plain").exists()
    save(LORA.train_lm(base, 0), words, tmp_path / "lora")
    said = tropism("merge", tmp_path / "lora", "--out", base)
    assert said.code == 2 and said.err == f"tropism: {base} exists and is not empty: give another --out\n"
    (tmp_path / "file").write_text("mine")
    said = tropism("merge", tmp_path / "lora", "--out", tmp_path / "file")
    assert said.code == 2 and said.err == f"tropism: {tmp_path / 'file'} exists and is not empty: give another --out\n"
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_no_half_of_a_model(base: str, words, tmp_path: Path) -> None:
    save(LORA.train_lm(base, 0), words, tmp_path / "lora")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30 * 1024, before[1]))
    try:
        said = tropism("merge", tmp_path / "lora", "--out", tmp_path / "plain")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said.code == 2 and said.err.startswith(f"tropism: the disk is full while writing {tmp_path / 'plain'}")
    assert said.err.count("\n") == 1 and sorted(p.name for p in tmp_path.iterdir()) == ["base", "lora"]
