"""Adapters against peft's own loaders and merging, and roles that share a base against models that share nothing."""

from __future__ import annotations

import gc
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from tropism.engines.local import LocalEngine
from tropism.errors import TropismError
from tropism.models import adapters
from tropism.models import folder as folders
from tropism.models.adapters import Adapter, base_of, load_trained, trained_state
from tropism.models.folder import config_of, frozen_base, frozen_lm, frozen_scalar, load_lm, load_scalar, save
from tropism.models.forward import predict_scores, predict_tokens, predict_values
from tropism.models.masks import takes_trees
from tropism.models.weights import Weights
from tropism.recipe.build import build
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree
from tropism.types import Message, SamplingParams

LORA = Weights(adapter=Adapter(r=4, alpha=8))
TREE = Tree("g", (7, 8, 9), ((10, 11, 12), (13,)), ((True,) * 3, (True,)), (True, True))
BATCH = collate([TREE])


@pytest.fixture
def base(any_kind: PreTrainedModel, words, tmp_path: Path) -> str:
    save(any_kind, words, tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def llama_base(llama: PreTrainedModel, words, tmp_path: Path) -> str:
    save(llama, words, tmp_path / "base")
    return str(tmp_path / "base")


def shaken(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """As training would leave it: every trained weight has moved."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def said(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return predict_tokens(model, BATCH).need("logprobs_BT")


def storages(*models: PreTrainedModel) -> dict[int, int]:
    """Bytes of each block of memory that the models' weights stand in."""
    return {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for m in models for p in m.parameters()}


def test_an_adapted_model_begins_as_its_base_and_trains_only_the_adapter(base: str):
    policy = LORA.train_lm(base, seed=0)
    assert isinstance(policy, PreTrainedModel) and takes_trees(policy)
    assert torch.equal(said(policy), said(load_lm(base)))
    names = {n for n, p in policy.named_parameters() if p.requires_grad}
    linear = [m for m in load_lm(base).base_model.modules() if type(m).__name__ in ("Linear", "Conv1D")]
    assert len(names) == 2 * len(linear) and all("lora_" in name for name in names)
    assert not torch.allclose(said(shaken(policy)), said(load_lm(base)), atol=0.1)


@torch.no_grad()
def test_peft_loads_what_is_saved_and_so_do_we(base: str, words, tmp_path: Path):
    policy = shaken(LORA.train_lm(base, seed=0))
    save(policy, words, tmp_path / "lora")
    assert {f.name for f in (tmp_path / "lora").glob("*.safetensors")} == {"adapter_model.safetensors"}
    saved = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert sum(t.numel() for t in saved.values()) == sum(t.numel() for t in trained_state(policy).values())
    tokens = torch.randint(len(words), (2, 9))
    expected = policy(tokens).logits
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "lora").eval()
    assert torch.allclose(theirs(tokens).logits, expected, atol=1e-5)
    for ours in (load_lm(tmp_path / "lora"), frozen_lm(tmp_path / "lora"), LORA.train_lm(str(tmp_path / "lora"), 5)):
        assert torch.allclose(said(ours), said(policy), atol=1e-5)
    assert not adapters.is_adapted(load_lm(tmp_path / "lora"))
    assert config_of(tmp_path / "lora").vocab_size == policy.config.vocab_size


@torch.no_grad()
def test_what_peft_saves_we_load(llama_base: str, tmp_path: Path):
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"], use_rslora=True)
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(llama_base), config).eval()
    torch.manual_seed(0)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.save_pretrained(str(tmp_path / "theirs"))
    expected = theirs(BATCH.tokens_BT[:, :6]).logits
    for ours in (load_lm(tmp_path / "theirs"), frozen_lm(tmp_path / "theirs")):
        assert torch.allclose(ours(BATCH.tokens_BT[:, :6]).logits, expected, atol=1e-5)
    same = Weights(adapter=Adapter(2, 6, ("q_proj", "down_proj")))
    with pytest.raises(TropismError, match="is an adapter with use_rslora = True, but the stage sets use_rslora = F"):
        same.train_lm(str(tmp_path / "theirs"), 0)  # its scale is another


@torch.no_grad()
def test_a_reward_model_is_saved_with_its_head_and_read_by_peft(base: str, words, tmp_path: Path):
    scalar = LORA.train_scalar(base, seed=0)
    assert predict_scores(scalar, BATCH).tolist() == [0, 0]
    scores = predict_scores(shaken(scalar), BATCH)
    assert scores.abs().min() > 1e-3
    scalar.config.score_scale = 2.5
    save(scalar, words, tmp_path / "rm")
    theirs = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "rm", num_labels=1).eval()
    alone = [theirs(torch.tensor([TREE.prompt + answer])).logits[0, 0] for answer in TREE.completions]
    assert torch.allclose(scores, torch.stack(alone), atol=1e-5)
    for load in (load_scalar, frozen_scalar, lambda path: LORA.train_scalar(str(path), 1)):
        ours = load(tmp_path / "rm")
        assert torch.allclose(predict_scores(ours, BATCH), scores, atol=1e-5)
        assert ours.config.score_scale == 2.5
    assert adapters.is_scalar(tmp_path / "rm")


@torch.no_grad()
def test_four_roles_stand_on_one_base_in_memory_and_none_disturbs_another(base: str, words, tmp_path: Path):
    save(shaken(LORA.train_lm(base, 1)), words, tmp_path / "sft")
    save(shaken(LORA.train_scalar(base, 2)), words, tmp_path / "rm")
    gc.collect()
    paths = str(tmp_path / "sft"), str(tmp_path / "rm")
    policy, reference = LORA.train_lm(paths[0], 3), LORA.freeze_lm(paths[0])
    critic, reward = LORA.train_scalar(paths[1], 4), frozen_scalar(paths[1])
    roles = (policy, reference, critic, reward)
    trained = sum(p.numel() * 4 for m in roles for n, p in m.named_parameters() if "lora_" in n or "score" in n)
    whole = sum(storages(load_lm(base)).values())
    assert sum(storages(*roles).values()) == whole + trained
    alone = [said(load_lm(paths[0])), predict_values(load_scalar(paths[1]), BATCH)]
    assert torch.allclose(said(policy), alone[0], atol=1e-5) and torch.equal(said(reference), said(policy))
    assert torch.allclose(predict_values(critic, BATCH), alone[1], atol=1e-5)
    scores = predict_scores(reward, BATCH)
    shaken(policy, 5), shaken(critic, 6)
    assert torch.allclose(said(reference), alone[0], atol=1e-5) and torch.equal(predict_scores(reward, BATCH), scores)
    assert not torch.allclose(said(policy), alone[0], atol=1e-2)
    assert not torch.allclose(predict_values(critic, BATCH), alone[1], atol=1e-2)
    assert not any(p.requires_grad for m in (reference, reward) for p in m.parameters())


def test_gradients_are_those_of_peft(llama_base: str, words):
    policy = shaken(LORA.train_lm(llama_base, seed=0))
    targets = policy.peft_config["default"].target_modules
    theirs = get_peft_model(
        AutoModelForCausalLM.from_pretrained(llama_base), LoraConfig(r=4, lora_alpha=8, target_modules=targets)
    ).eval()
    mine = trained_state(policy)
    theirs.load_state_dict({f"base_model.model.{n}": t for n, t in mine.items()}, strict=False)
    (-predict_tokens(policy, BATCH).need("logprobs_BT").sum()).backward()
    for answer in TREE.completions:
        ids = torch.tensor([TREE.prompt + answer])
        (theirs(ids, labels=torch.tensor([(-100,) * 3 + answer])).loss * len(answer)).backward()
    found, expected = ({n: p.grad for n, p in m.named_parameters() if p.requires_grad} for m in (policy, theirs))
    assert len(found) == len(expected)
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[f"base_model.model.{name}"], atol=1e-4, rtol=1e-4), name


def test_a_base_is_held_as_long_as_it_is_used_and_read_again_if_it_changes(
    llama_base: str, words, make_model: Callable
):
    policy = LORA.train_lm(llama_base, 0)
    assert frozen_base(llama_base, torch.float32) is policy.twin_of  # type: ignore[attr-defined]
    assert frozen_base(llama_base, torch.bfloat16) is not policy.twin_of  # type: ignore[attr-defined]
    save(make_model(seed=1), words, Path(llama_base))
    assert not torch.allclose(said(LORA.freeze_lm(llama_base)), said(policy), atol=1e-2)
    del policy
    gc.collect()
    assert not [key for key in folders._BASES if llama_base in str(key)]


def test_a_checkpoint_holds_the_adapter_only_and_gives_it_back(llama_base: str):
    policy, critic = shaken(LORA.train_lm(llama_base, 0)), shaken(LORA.train_scalar(llama_base, 0))
    for model, other in ((policy, LORA.train_lm(llama_base, 9)), (critic, LORA.train_scalar(llama_base, 9))):
        state = {n: t.clone() for n, t in trained_state(model).items()}
        assert all("lora_" in n or n == "score.weight" for n in state)
        load_trained(other, state)
        assert all(torch.equal(t, trained_state(other)[n]) for n, t in state.items())
    with pytest.raises(TropismError, match="the checkpoint is of a model with another adapter"):
        load_trained(policy, trained_state(critic))
    plain = load_lm(llama_base)
    assert trained_state(plain).keys() == plain.state_dict().keys()
    load_trained(plain, trained_state(load_lm(llama_base)))


def test_the_engine_samples_from_the_adapted_model(llama_base: str, words, tmp_path: Path):
    policy = shaken(LORA.train_lm(llama_base, seed=0))
    save(policy, words, tmp_path / "lora")
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "lora").eval()
    prompt = (Message("user", "26 days"),)
    (found,) = LocalEngine(policy, words).generate([prompt], SamplingParams(max_tokens=12, temperature=0))
    ids = words.apply_chat_template(
        [{"role": "user", "content": "26 days"}], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    expected = theirs.generate(input_ids=ids, max_new_tokens=12, do_sample=False, eos_token_id=words.eos_token_id)
    assert list(found[0].tokens or ()) == expected[0, ids.shape[1] :].tolist()


def test_the_seed_draws_the_adapter_and_leaves_the_global_stream_alone(llama_base: str):
    before = torch.random.get_rng_state()
    first, same, other = (trained_state(LORA.train_lm(llama_base, seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[n], same[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)


def test_targets_are_the_layers_named(llama_base: str):
    some = Weights(adapter=Adapter(2, 4, ("q_proj", "v_proj"))).train_lm(llama_base, 0)
    assert {n.split(".")[-4] for n in trained_state(some)} == {"v_proj", "q_proj"}
    with pytest.raises(TropismError, match="adapter.targets has 'qproj', which the model does not: use down_proj,"):
        Weights(adapter=Adapter(2, 4, ("qproj",))).train_lm(llama_base, 0)


def test_a_run_folder_may_be_moved(llama_base: str, words, tmp_path: Path):
    (tmp_path / "run").mkdir()
    shutil.move(llama_base, tmp_path / "run" / "base")
    policy = shaken(LORA.train_lm(str(tmp_path / "run" / "base"), 0))
    save(policy, words, tmp_path / "run" / "sft" / "out")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    folder = tmp_path / "elsewhere" / "sft" / "out"
    assert base_of(folder) == str((tmp_path / "elsewhere" / "base").resolve())
    assert torch.allclose(said(load_lm(folder)), said(policy), atol=1e-5)
    (folder / "base.json").unlink()
    with pytest.raises(TropismError, match="no model is at"):
        load_lm(folder)


def test_another_adapter_is_not_gone_on_with(llama_base: str, words, tmp_path: Path):
    save(LORA.train_lm(llama_base, 0), words, tmp_path / "sft")
    with pytest.raises(TropismError, match=r"with r = 4, lora_alpha = 8, but the stage sets r = 2, lora_alpha = 4"):
        Weights(adapter=Adapter(2, 4)).train_lm(str(tmp_path / "sft"), 0)


@pytest.mark.parametrize("load", [load_lm, load_scalar, frozen_lm, lambda path: LORA.train_lm(str(path), 0)])
def test_a_broken_adapter_is_one_sentence(load, llama_base: str, words, tmp_path: Path):
    folder = tmp_path / "sft"
    save(LORA.train_lm(llama_base, 0), words, folder)
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(TropismError, match="no adapter can be read from") as error:
        load(folder)
    assert "\n" not in str(error.value)
    config.write_text("{")
    with pytest.raises(TropismError, match="no adapter can be read from"):
        load(folder)
    config.write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": None}))
    (folder / "base.json").unlink()
    with pytest.raises(TropismError, match="names no whole model as its base"):
        load(folder)


@pytest.mark.parametrize(
    ("keys", "named"),
    [({"r": -1}, "adapter.r"), ({"r": 4, "alpha": 0}, "adapter.alpha"), ({"targets": ["q_proj"]}, "adapter.r")],
)
def test_an_adapter_that_makes_no_sense_is_refused(keys: dict[str, Any], named: str) -> None:
    with pytest.raises(TropismError, match=re.escape(named)):
        build(Adapter, keys, "adapter")
