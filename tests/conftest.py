"""Shared fixtures: a tiny tokenizer and tiny models of the four kinds, spread out so that every mistake shows."""

from __future__ import annotations

import os
from collections.abc import Callable

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is claimed bit for bit is claimed for a CPU
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers share the processors, and inherit the environment
else:
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))  # so that no run measures how many are free

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from tropism.models.architecture import Architecture, create
from tropism.text.tokenizer import train_tokenizer

logging.set_verbosity_error()
logging.disable_progress_bar()

KINDS = ("llama", "qwen3", "gpt2", "gpt_neox")
WIDTH, LAYERS, HEADS, CONTEXT = 32, 2, 2, 128


def _sharpen(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Moves every weight, or all tokens would be as likely and all positions alike."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed + 1000)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of fewer than 300 tokens with tropism's chat template."""
    return train_tokenizer([f"{n} days, {n} jours, {n} hari, {n} дней\n" for n in range(100)], 300)


@pytest.fixture(scope="session")
def make_model(words: PreTrainedTokenizerFast) -> Callable[..., PreTrainedModel]:
    """make_model(kind="llama", seed=0): a causal LM of 2 layers, sharp enough to prefer some tokens to others."""

    def make(kind: str = "llama", seed: int = 0) -> PreTrainedModel:
        if kind in ("llama", "qwen3"):
            model = create(Architecture(kind, WIDTH, LAYERS, HEADS, context=CONTEXT), words, seed)  # type: ignore[arg-type]
        else:
            ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
            shape = {"vocab_size": len(words), "pad_token_id": words.pad_token_id, **ends}
            config = (
                GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=CONTEXT, **shape)
                if kind == "gpt2"
                else GPTNeoXConfig(
                    hidden_size=WIDTH,
                    intermediate_size=64,
                    num_hidden_layers=LAYERS,
                    num_attention_heads=HEADS,
                    max_position_embeddings=CONTEXT,
                    **shape,
                )
            )
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
        return _sharpen(model, seed)

    return make


@pytest.fixture
def sliding(words: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A model whose layers look back over 24 tokens only; it takes trees, under a mask of that window."""
    shape = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": LAYERS, "sliding_window": 24}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": HEADS}
    config = MistralConfig(vocab_size=len(words), eos_token_id=words.eos_token_id, **shape, **heads)
    return _sharpen(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval())


@pytest.fixture
def llama(make_model: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return make_model()


@pytest.fixture(params=KINDS)
def any_kind(request: pytest.FixtureRequest, make_model: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    """A causal LM of each kind that takes trees, in turn."""
    return make_model(request.param)
