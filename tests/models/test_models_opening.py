"""Opening a folder: all of its weights and no others, the ids that stand for a token, and what transformers reads
back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from tropism.engines.local import LocalEngine
from tropism.errors import TropismError
from tropism.models.adapters import Adapter, is_adapter
from tropism.models.folder import check_taken, frozen_lm, frozen_scorer, load_lm, load_scalar, save
from tropism.models.forward import predict_scores, predict_tokens, set_units
from tropism.models.weights import Weights
from tropism.plan import plan
from tropism.recipe.read import load
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree
from tropism.text.chat import stop_tokens
from tropism.text.tokenizer import train_tokenizer
from tropism.types import Message, SamplingParams

ASK = (Message("user", "7 jours"),)
TREE = Tree("g", (7, 8, 9), ((10, 11, 12), (13,)), ((True,) * 3, (True,)), (True, True))


@pytest.fixture
def folder(llama: PreTrainedModel, words, tmp_path: Path) -> Path:
    save(llama, words, tmp_path / "lm")
    return tmp_path / "lm"


def change_config(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_weights(folder: Path, drop: str = "", **more: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    kept = {n: t for n, t in load_file(file).items() if n != drop}
    save_file(kept | more, file, {"format": "pt"})


@pytest.mark.parametrize("load", [load_lm, load_scalar])
def test_weights_that_are_missing_are_named(load, folder: Path):
    change_config(folder, num_hidden_layers=6)
    with pytest.raises(TropismError, match=r"lm does not have .* \(36 weights are missing, such as model\.layers\.2\."):
        load(folder)
    change_config(folder, num_hidden_layers=2)
    change_weights(folder, "model.norm.weight")
    with pytest.raises(TropismError, match=r"1 weights are missing, such as model\.norm\.weight"):
        load(folder)


@pytest.mark.parametrize("load", [load_lm, load_scalar])
def test_weights_without_a_place_and_of_another_shape_are_named(load, folder: Path):
    change_config(folder, num_hidden_layers=1)
    with pytest.raises(TropismError, match=r"weights have no place, such as model\.layers\.1\."):
        load(folder)
    change_config(folder, num_hidden_layers=2, vocab_size=100)
    with pytest.raises(TropismError, match=r"model.embed_tokens.weight is \d+ x 32 and should be 100 x 32"):
        load(folder)


def test_what_is_tied_or_new_by_right_is_not_missed(folder: Path):
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert load_lm(folder) and load_scalar(folder)


def test_a_reward_model_is_no_language_model(folder: Path, words):
    save(load_scalar(folder), words, folder.parent / "rm")
    for opened in (load_lm, frozen_lm):
        with pytest.raises(TropismError, match="is a reward model, with a score head instead of an LM head"):
            opened(folder.parent / "rm")


@pytest.mark.parametrize("r", [0, 2])
def test_nor_is_one_whose_likelihoods_are_its_scores(folder: Path, words, r: int):
    """A causal LM by its shape; its folder says that it scores, an adapter's in a note beside peft's files."""
    path = folder.parent / "rm"
    weights = Weights(adapter=Adapter(r=r))
    model = weights.train_lm(str(folder), 0)
    set_units(model, -3.0, 0.5)
    save(model, words, path)
    assert is_adapter(path) == bool(r)
    for opened in (load_lm, frozen_lm, check_taken, lambda it: weights.train_lm(str(it), 0)):
        with pytest.raises(TropismError, match="is a reward model, whose likelihoods are its scores: name a language"):
            opened(path)
    assert check_taken(path, scalar=True) and load_scalar(path)
    for again in (frozen_scorer(path), load_lm(path, scorer=True), weights.train_lm(str(path), 0, scorer=True)):
        assert again.config.score_unit == 0.5
    assert load_lm(folder) and frozen_lm(folder)


def test_weights_that_are_not_numbers_are_named(folder: Path):
    norm = torch.full((32,), float("nan"))
    change_weights(folder, **{"model.norm.weight": norm})
    with pytest.raises(TropismError, match=r"the weight model\.norm\.weight of .*lm has values that are not finite"):
        load_lm(folder)


def test_what_is_no_causal_language_model_is_one_sentence(tmp_path: Path):
    shape = {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "vocab_size": 64}
    T5ForConditionalGeneration(T5Config(**shape)).save_pretrained(tmp_path)
    with pytest.raises(TropismError, match=r"is an encoder-decoder model \(t5\): use a decoder-only model"):
        check_taken(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "of_tomorrow"}')
    with pytest.raises(TropismError, match="no model is at .*of_tomorrow") as error:
        check_taken(tmp_path)
    assert "\n" not in str(error.value)


@pytest.fixture
def padded(llama: PreTrainedModel, words, tmp_path: Path) -> Path:
    """Embeddings padded to 320 rows, as those of Qwen and Phi are, whose last ones are very likely; and a hole at
    30."""
    llama.resize_token_embeddings(320)
    with torch.no_grad():
        llama.get_output_embeddings().weight[len(words) :] *= 9
    save(llama, words, tmp_path)
    return tmp_path


def test_an_id_that_no_text_has_is_never_sampled(padded: Path, words):
    engine = LocalEngine(load_lm(padded), words)
    params = SamplingParams(n=16, max_tokens=24)
    answers = engine.generate([ASK], params)[0]
    assert max(token for a in answers for token in a.tokens or ()) < len(words)


@torch.no_grad()
def test_engine_and_trainer_spread_the_same_probability(padded: Path, words):
    model = load_lm(padded)
    batch = collate([TREE], shared=False)
    found = predict_tokens(model, batch).need("logprobs_BT")[0, 3]
    logits = model(torch.tensor([TREE.prompt])).logits[0, -1, : len(words)]
    assert float(found) == pytest.approx(float(logits.log_softmax(-1)[10]), abs=1e-5)
    answer = LocalEngine(model, words).generate([ASK], SamplingParams(max_tokens=6))[0][0]
    prompt = words.apply_chat_template([{"role": "user", "content": "7 jours"}], add_generation_prompt=True)[
        "input_ids"
    ]
    tree = Tree("g", tuple(prompt), (answer.tokens or (),), (answer.sampled or (),), (True,))
    trained = predict_tokens(model, collate([tree])).need("logprobs_BT")[0, len(prompt) :]
    assert torch.allclose(trained, torch.tensor(answer.logprobs), atol=2e-5)


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(folder: Path):
    train_tokenizer([f"{chr(97 + n % 26)}{chr(97 + n // 26)}ing " * 9 for n in range(676)], 400).save_pretrained(folder)
    with pytest.raises(TropismError, match=r"the tokenizer has the token \d+, but the model .* has \d+ tokens"):
        load_lm(folder)


def test_the_stops_of_a_generation_config_are_obeyed_and_kept(llama: PreTrainedModel, words, tmp_path: Path):
    free = LocalEngine(llama, words).generate([ASK], SamplingParams(max_tokens=12, temperature=0))[0][0].tokens or ()
    stop = next(t for t in free[2:] if t not in stop_tokens(words))
    llama.generation_config.eos_token_id = [words.eos_token_id, stop]
    save(llama, words, tmp_path)
    model = load_lm(tmp_path)
    (answer,) = LocalEngine(model, words).generate([ASK], SamplingParams(max_tokens=12, temperature=0))[0]
    assert answer.tokens == free[: free.index(stop) + 1]
    assert answer.finish_reason == "stop"
    save(model, words, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text())["eos_token_id"] == [
        words.eos_token_id,
        stop,
    ]


@pytest.mark.parametrize("pad", [None, "<|end|>"], ids=["no padding token", "padding is the end"])
@torch.no_grad()
def test_a_reward_model_is_read_in_batches_by_transformers(folder: Path, pad: str | None):
    """In plain transformers a batch needs a padding token, and the last token that is not one is scored."""
    words = AutoTokenizer.from_pretrained(folder)
    words.pad_token = pad
    words.save_pretrained(folder)
    change_config(folder, pad_token_id=None)
    scalar = load_scalar(folder)
    torch.nn.init.normal_(scalar.get_submodule("score").get_parameter("weight"))
    end = words.eos_token_id
    trees = [Tree("g", (7, 8, 9), ((10, 11, end), (13, end)), ((True,) * 3, (True,) * 2), (True, True))]
    expected = predict_scores(scalar, collate(trees))
    save(scalar, words, folder.parent / "rm")
    theirs = AutoModelForSequenceClassification.from_pretrained(folder.parent / "rm").eval()
    tokens = AutoTokenizer.from_pretrained(folder.parent / "rm")
    batch = tokens.pad({"input_ids": [[7, 8, 9, 10, 11, end], [7, 8, 9, 13, end]]}, return_tensors="pt")
    assert torch.allclose(theirs(**batch).logits[:, 0], expected, atol=1e-5)


def test_what_is_saved_in_half_precision_is_half_the_size(llama: PreTrainedModel, words, tmp_path: Path):
    save(llama, words, tmp_path / "whole")
    save(llama, words, tmp_path / "half", "bfloat16")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto")
    assert theirs.dtype == torch.bfloat16
    weight = llama.get_input_embeddings().get_parameter("weight")
    assert weight.dtype == torch.float32  # the model in memory stays as it is
    assert torch.equal(theirs.get_input_embeddings().get_parameter("weight"), weight.bfloat16())


def test_a_model_that_cannot_be_taken_is_refused_when_the_recipe_is_planned(folder: Path, words, tmp_path: Path):
    """Nothing has run by then; the sentence names stage and field."""
    save(load_scalar(folder), words, tmp_path / "rm")
    shape = {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "vocab_size": 64}
    T5ForConditionalGeneration(T5Config(**shape)).save_pretrained(tmp_path / "t5")
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    recipe = tmp_path / "mine.toml"
    for model, said in (("t5", "encoder-decoder model"), ("rm", "is a reward model"), ("none", "no model is at")):
        recipe.write_text(
            f'name = "mine"\n[[stage]]\nid = "sft"\nkind = "sft"\nmodel = "{tmp_path / model}"\n'
            f'data = {{ kind = "chat", path = "{chats}" }}\n'
        )
        with pytest.raises(TropismError, match=rf"sft\.model: .*{said}"):
            plan(load(recipe), tmp_path / "run")
