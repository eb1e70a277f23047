"""Whatever is saved, the ecosystem loads: the same logits, the same scores, the same tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from tropism.errors import TropismError
from tropism.models.architecture import Architecture, create
from tropism.models.folder import context_of, load_lm, load_scalar, save
from tropism.models.forward import predict_scores, predict_values
from tropism.tensors.batch import Batch
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree

PROMPT, ANSWERS = (7, 8, 9), ((10, 11, 12), (13,))


def batch(shared: bool = True) -> Batch:
    return collate([Tree("g", PROMPT, ANSWERS, ((True,) * 3, (True,)), (True, True))], shared=shared)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("feed_forward", [0, 48])
def test_parameters_are_counted_without_making_the_model(kind, feed_forward: int, words):
    architecture = Architecture(kind, width=32, layers=3, heads=2, feed_forward=feed_forward, context=64)
    model = create(architecture, words, seed=0)
    assert architecture.parameters(len(words)) == sum(p.numel() for p in model.parameters())
    assert context_of(model) == 64


def test_feed_forward_is_eight_thirds_of_the_width_rounded_up_to_32():
    assert Architecture(width=128).config(300).intermediate_size == 352
    assert Architecture(width=96).config(300).intermediate_size == 256


def test_a_width_that_the_heads_do_not_share_is_refused():
    with pytest.raises(TropismError, match=r"model.width = 30 .* model.heads = 4"):
        Architecture(width=30)


def test_create_depends_on_the_seed_and_leaves_the_global_stream_alone(words):
    before = torch.random.get_rng_state()
    models = [create(Architecture(width=32, heads=2), words, seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    first, same, other = (next(m.parameters()) for m in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not models[0].training


def test_a_created_model_knows_its_tokens(words, llama: PreTrainedModel):
    config = llama.config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (
        words.bos_token_id,
        words.eos_token_id,
        words.pad_token_id,
    )
    assert config.vocab_size == len(words)
    assert words.pad_token_id != words.eos_token_id


def test_save_and_load_keep_every_logit_and_token(any_kind: PreTrainedModel, words, tmp_path: Path):
    save(any_kind, words, tmp_path)
    tokens = torch.randint(len(words), (2, 9))
    expected = any_kind(tokens).logits
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.allclose(theirs(tokens).logits, expected, atol=1e-5)
    assert torch.allclose(load_lm(tmp_path)(tokens).logits, expected, atol=1e-5)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    assert reloaded.encode("26 jours") == words.encode("26 jours")
    assert reloaded.chat_template == words.chat_template
    assert list(tmp_path.glob("*.safetensors"))


def test_a_scalar_model_keeps_the_backbone_and_begins_at_zero(any_kind: PreTrainedModel, words, tmp_path: Path):
    save(any_kind, words, tmp_path)
    scalar = load_scalar(tmp_path)
    assert not scalar.training
    assert predict_values(scalar, batch()).abs().max() == 0
    assert predict_scores(scalar, batch()).tolist() == [0, 0]
    tokens = torch.randint(len(words), (1, 9))
    ours = scalar.base_model(tokens).last_hidden_state
    assert torch.allclose(ours, any_kind.base_model(tokens).last_hidden_state, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_a_trained_head_is_read_by_transformers_as_by_us(
    any_kind: PreTrainedModel, words, tmp_path: Path, shared: bool
):
    save(any_kind, words, tmp_path / "lm")
    scalar = load_scalar(tmp_path / "lm")
    torch.nn.init.normal_(scalar.score.weight)
    scores = predict_scores(scalar, batch(shared))
    save(scalar, words, tmp_path / "rm")
    again = predict_scores(load_scalar(tmp_path / "rm"), batch(shared))
    assert torch.allclose(again, scores, atol=1e-6)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    assert theirs.config.num_labels == 1
    alone = [theirs(torch.tensor([PROMPT + answer])).logits[0, 0] for answer in ANSWERS]
    assert torch.allclose(scores, torch.stack(alone), atol=1e-5)
    pad = theirs.config.pad_token_id
    padded = torch.tensor([PROMPT + ANSWERS[0], PROMPT + ANSWERS[1] + (pad, pad)])
    mask = (padded != pad).long()
    assert torch.allclose(scores, theirs(padded, attention_mask=mask).logits[:, 0], atol=1e-5)


def test_a_classifier_of_many_labels_is_no_reward_model(llama: PreTrainedModel, words, tmp_path: Path):
    llama.config.num_labels = 3
    save(AutoModelForSequenceClassification.from_config(llama.config), words, tmp_path)
    with pytest.raises(TropismError, match="has 3 labels, but a reward model"):
        load_scalar(tmp_path)


@pytest.mark.parametrize("load", [load_lm, load_scalar])
def test_a_folder_without_a_model_is_one_sentence(load, tmp_path: Path):
    with pytest.raises(TropismError, match="give a Hugging Face folder or id") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text('{"model_type": "llama"')
    with pytest.raises(TropismError, match="give a Hugging Face folder or id"):
        load(tmp_path)


@pytest.mark.parametrize("load", [load_lm, load_scalar])
def test_torn_weights_are_one_sentence(load, words, llama: PreTrainedModel, tmp_path: Path):
    save(llama, words, tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(TropismError, match="give a Hugging Face folder or id"):
        load(tmp_path)
