"""Models as functions of their weights: states of the modules, tokens of `generate`, None for what is not known."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from tropism.models.adapters import Adapter, attach
from tropism.models.attend import LayerSpec
from tropism.models.families import llama
from tropism.models.functional import functional_of, head_of
from tropism.models.halves import logits, states_of
from tropism.models.weights import recompute

ENDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 6, "pad_token_id": 1}
SIZES: dict[str, Any] = {
    **ENDS, "vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip
SHARED = {**SIZES, "num_key_value_heads": 2}
WINDOWS = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
ROPE = {"rope_theta": 1e4}
YARN = {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA_3 = {
    **ROPE, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
KNOWN = {  # all options of a family at once
    "llama": LlamaConfig(**SHARED, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA_3),
    "llama tied, yarn": LlamaConfig(**SIZES, num_key_value_heads=1, tie_word_embeddings=True, rope_parameters=YARN),
    "mistral": MistralConfig(**SHARED, sliding_window=4, head_dim=16, hidden_act="gelu"),
    "qwen2": Qwen2Config(**SHARED, **WINDOWS),
    "qwen3": Qwen3Config(**SHARED, **WINDOWS, head_dim=16, attention_bias=True),
    "gemma": GemmaConfig(**SHARED, head_dim=16, attention_bias=True),
    "gemma2": Gemma2Config(
        **SHARED, head_dim=16, sliding_window=4, query_pre_attn_scalar=20, attn_logit_softcapping=2.0,
        final_logit_softcapping=1.5,
    ),
    "gemma3": Gemma3TextConfig(
        **SHARED, head_dim=16, sliding_window=4, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "gpt_neox": GPTNeoXConfig(**SIZES, rope_parameters={**ROPE, "rope_type": "default", "partial_rotary_factor": 0.5}),
    "gpt_neox in turn": GPTNeoXConfig(**SIZES, use_parallel_residual=False, attention_bias=False),
    "gpt2": GPT2Config(
        **ENDS, vocab_size=90, n_embd=32, n_layer=3, n_head=4, n_positions=64, scale_attn_by_inverse_layer_idx=True
    ),
}  # fmt: skip
UNKNOWN = {
    "frequencies that depend on the length": LlamaConfig(
        **SIZES, rope_parameters={**ROPE, "rope_type": "dynamic", "factor": 4.0}
    ),
    "another family": MambaConfig(**ENDS, vocab_size=90, hidden_size=32, num_hidden_layers=2),
    "an activation that no file knows": LlamaConfig(**SIZES, hidden_act="quick_gelu"),
}


def opened(config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    return moved(model)


@torch.no_grad()
def moved(model: PreTrainedModel) -> PreTrainedModel:
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    return model


class Loops:
    """Keeps keys and values of rows of one length, and attends with a loop over heads and queries."""

    def __init__(self, layers: Any) -> None:
        self.layers: list[LayerSpec] = list(layers)
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        spec, (rows, heads, count, size) = self.layers[layer], q.shape
        assert k.shape == (rows, spec.kv_heads, count, spec.size) and heads == spec.heads
        self.keys[layer] = k = torch.cat([self.keys.get(layer, k[:, :, :0]), k], 2)
        self.values[layer] = v = torch.cat([self.values.get(layer, v[:, :, :0]), v], 2)
        out = torch.zeros(rows, count, heads, size, dtype=q.dtype)
        for h in range(heads):
            for t in range(count):
                end = k.shape[2] - count + t + 1
                seen = slice(max(end - spec.window, 0) if spec.window else 0, end)
                group = h * spec.kv_heads // heads
                score = (k[:, group, seen] * q[:, h, t, None]).sum(-1) * spec.scale
                if spec.softcap:
                    score = spec.softcap * torch.tanh(score / spec.softcap)
                out[:, t, h] = (score.softmax(-1)[..., None] * v[:, group, seen]).sum(1)
        return out.flatten(2)


def check_states(model: PreTrainedModel, cuts: tuple[int, ...] = (0, 6, 7, 8, 9)) -> None:
    """A prefill of six tokens, then one token a call."""
    forward = functional_of(model)
    assert forward is not None
    tokens, position = torch.randint(7, 90, (3, cuts[-1])), torch.arange(cuts[-1]).expand(3, -1)
    store = Loops(forward.layers)
    found = [forward(tokens[:, a:b], position[:, a:b], store) for a, b in pairwise(cuts)]
    expected = states_of(model, tokens)
    assert (torch.cat(found, 1) - expected).abs().max() <= 1e-5 * expected.abs().max()
    apart = expected * torch.tensor([0.01, 1, 100])[:, None, None]  # caps change large logits only
    expected, found = logits(model, apart.flatten(0, 1)), head_of(model)(apart.flatten(0, 1))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", KNOWN)
@torch.inference_mode()
def test_states_and_logits_are_those_of_the_modules(name: str):
    model = opened(KNOWN[name])
    check_states(model)
    made = functional_of(model)
    check_states(moved(model))  # an update changes the weights in place
    assert functional_of(model) is made


@pytest.mark.parametrize("name", KNOWN)
@torch.inference_mode()
def test_greedy_tokens_are_those_of_generate(name: str):
    model = opened(KNOWN[name])
    forward, head, tokens = functional_of(model), head_of(model), torch.randint(7, 90, (2, 7))
    expected = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, do_sample=False, eos_token_id=None
    )
    assert forward is not None
    store, seen = Loops(forward.layers), 0
    while tokens.shape[1] < expected.shape[1]:
        position = torch.arange(seen, tokens.shape[1]).expand(2, -1)
        states = forward(tokens[:, seen:], position, store)
        seen = tokens.shape[1]
        tokens = torch.cat([tokens, head(states[:, -1]).argmax(-1)[:, None]], 1)
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_keeps_the_general_way(name: str):
    assert functional_of(opened(UNKNOWN[name])) is None


def test_a_changed_model_keeps_the_general_way():
    model = opened(KNOWN["llama"])
    assert functional_of(model) is not None
    hook = model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert functional_of(model) is None
    hook.remove()
    assert functional_of(model) is not None
    attach(model, Adapter(r=2), seed=0)
    assert functional_of(model) is None
    other = opened(KNOWN["llama"])
    recompute(other)
    assert functional_of(other) is None


def test_a_forward_pass_that_departs_is_refused(monkeypatch: pytest.MonkeyPatch):
    """The trial can fail: with keys and queries that do not know where they are."""
    monkeypatch.setattr(llama, "turned", lambda x, _: x)
    assert functional_of(opened(KNOWN["qwen3"])) is None


@torch.inference_mode()
def test_bfloat16_is_as_far_from_float32_as_the_modules_are():
    wide = opened(KNOWN["qwen3"])
    tokens, position = torch.randint(7, 90, (3, 9)), torch.arange(9).expand(3, -1)
    exact = states_of(wide, tokens)
    model = wide.to(torch.bfloat16)
    forward = functional_of(model)
    assert forward is not None
    made = forward(tokens, position, Loops(forward.layers))
    assert made.dtype == torch.bfloat16
    mine, theirs = ((x.float() - exact).square().mean().sqrt() for x in (made, states_of(model, tokens)))
    assert mine < 1.5 * theirs
