"""Stages that train an adapter: what they leave behind, and what comes after them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny_recipe import tropism
from tropism.errors import TropismError
from tropism.formats.phrasebook import Phrasebook
from tropism.models.adapters import Adapter
from tropism.models.folder import load_lm, save
from tropism.recipe.read import parse
from tropism.stages.pretrain import Pretrain
from tropism.stages.sft import SFT
from tropism.store.folder import done, read_metrics
from tropism.store.progress import Reporter
from tropism.store.run import Run, run_recipe
from tropism.train.optim import Optim

DATA = Phrasebook("demonstrations", count=40)
LORA = Adapter(r=4, alpha=8)
FAST = Optim(lr=3e-2)


def sft(model: str, adapter: Adapter = LORA, **more) -> SFT:
    fields = {"steps": 25, "groups_per_step": 8, "held_out": 0.1, "optim": FAST, **more}
    return SFT(model, DATA, adapter=adapter, **fields)


def test_sft_leaves_a_peft_folder_that_peft_and_the_next_stage_load(
    run: Run, model_folder: str, tmp_path: Path
) -> None:
    before = Path(model_folder, "model.safetensors").read_bytes()
    out = run(sft(model_folder))
    said = (done(out.parent) or {})["facts"]
    assert said["held_out_loss"] < said["held_out_loss_before"] - 0.3
    assert [f.name for f in out.glob("*.safetensors")] == ["adapter_model.safetensors"]
    assert all("lora_" in name for name in load_file(out / "adapter_model.safetensors"))
    assert Path(model_folder, "model.safetensors").read_bytes() == before
    theirs = AutoPeftModelForCausalLM.from_pretrained(out).eval()
    words = AutoTokenizer.from_pretrained(out)
    tokens = torch.randint(len(words), (2, 9))
    expected = theirs(tokens).logits.detach()
    assert torch.allclose(load_lm(out)(tokens).logits, expected, atol=1e-5)
    start = AutoModelForCausalLM.from_pretrained(model_folder).eval()(tokens).logits
    assert (expected - start).abs().max() > 0.1

    (tmp_path / "ask.txt").write_text("26 days?\n")
    made = tropism("generate", out, "--prompts", tmp_path / "ask.txt", "--out", tmp_path / "said.jsonl", "-q",
                   "--temperature", "0", "--max-tokens", "8")  # fmt: skip
    assert made.code == 0, made.err
    tokens = json.loads((tmp_path / "said.jsonl").read_text())["completions"][0]["tokens"]
    ids = words.apply_chat_template(
        [{"role": "user", "content": "26 days?"}], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    answer = theirs.generate(input_ids=ids, max_new_tokens=8, do_sample=False, eos_token_id=words.eos_token_id)
    assert tokens == answer[0, ids.shape[1] :].tolist()

    more = run(sft(str(out), steps=2), "more")  # the same adapter goes on
    config = json.loads((more / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]) == Path(model_folder).resolve()
    begin = (done(more.parent) or {})["facts"]["held_out_loss_before"]
    assert begin == pytest.approx(said["held_out_loss"], abs=2e-4)
    whole = run(sft(str(out), Adapter(), steps=2), "whole")  # or all weights, from the merged ones
    assert (done(whole.parent) or {})["facts"]["held_out_loss_before"] == pytest.approx(begin, abs=2e-4)
    assert not list(whole.glob("adapter*")) and AutoModelForCausalLM.from_pretrained(whole)


def test_an_adapter_is_a_key_of_the_stage(model_folder: str, tmp_path: Path) -> None:
    stage = {
        "id": "sft",
        "kind": "sft",
        "model": model_folder,
        "data": {"kind": "phrasebook", "part": "demonstrations", "count": 40},
        "steps": 2,
        "adapter": {"r": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]},
        "checkpointing": True,
    }
    recipe = parse({"stage": [stage]}, "here")
    assert getattr(recipe.stages["sft"], "adapter") == Adapter(2, 4, ("q_proj", "v_proj"))  # noqa: B009
    run = run_recipe(recipe, tmp_path, reporter=Reporter(quiet=True))
    config = json.loads((run.artifacts["sft"].path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], set(config["target_modules"])) == (2, 4, {"q_proj", "v_proj"})
    with pytest.raises(TropismError, match=r"sft.adapter has no key 'rank'"):
        parse({"stage": [{**stage, "adapter": {"rank": 2}}]}, "here")


def test_layers_computed_again_leave_the_same_weights(run: Run, model_folder: str) -> None:
    outs = [run(sft(model_folder, steps=3, checkpointing=on)) for on in (False, True)]
    plain, again = (load_file(out / "adapter_model.safetensors") for out in outs)
    assert outs[0] != outs[1] and plain.keys() == again.keys()
    assert all(torch.allclose(plain[n], again[n], atol=1e-5) for n in plain)


def test_an_adapter_cannot_add_tokens(run: Run, bare_folder: str, tmp_path: Path) -> None:
    words, model = AutoTokenizer.from_pretrained(bare_folder), AutoModelForCausalLM.from_pretrained(bare_folder)
    model.resize_token_embeddings(len(words))  # no room for more
    save(model, words, tmp_path / "full")
    with pytest.raises(TropismError, match="adds tokens to .* an adapter trains no embeddings"):
        run(sft(str(tmp_path / "full"), chat_template="tropism"))


def test_pretraining_goes_on_with_an_adapter_and_does_not_begin_with_one(run: Run, model_folder: str) -> None:
    documents = Phrasebook("documents", count=60)
    with pytest.raises(TropismError, match=r"pretrain.adapter needs `init`"):
        Pretrain(documents, tokenizer=model_folder, adapter=LORA)
    out = run(Pretrain(documents, init=model_folder, adapter=LORA, steps=20, tokens_per_step=256, optim=FAST))
    losses = [m["loss"] for m in read_metrics(out.parent)]
    assert losses[-1] < losses[0] - 0.1
    assert (out / "adapter_config.json").exists()
