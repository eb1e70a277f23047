"""A compiled decoding step against plain calls of the model in double precision; and what its results do not depend on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from tropism.engines._sequence import Sequenced
from tropism.engines._store import Store
from tropism.models.functional import functional_of
from tropism.models.halves import states_of
from tropism.tensors import native

with_steps = pytest.mark.skipif(not native.has("one_step"), reason="no C compiler, or a processor without AVX-512")
SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 40, "intermediate_size": 52, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "eos_token_id": 6, "pad_token_id": 1, "bos_token_id": 0,
}  # fmt: skip
EVEN: dict[str, Any] = SIZES | {"hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 4}
WINDOWS: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama, even widths": LlamaConfig(**EVEN),
    "mistral": MistralConfig(**SIZES, sliding_window=9),
    "qwen2": Qwen2Config(**SIZES, **WINDOWS),
    "qwen3": Qwen3Config(**SIZES, **WINDOWS, head_dim=16),
}


def opened(config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


def prompts(count: int) -> list[Sequenced]:
    """Of 1 to 40 tokens."""
    made = torch.Generator().manual_seed(count)
    return [Sequenced(torch.randint(7, 50, (1 + (7 * i) % 40,), generator=made).tolist()) for i in range(count)]


def decoded(model: PreTrainedModel, count: int, steps: int = 3) -> tuple[Store, list[Sequenced], Tensor]:
    """A store, its rows after some steps, and their last hidden states (rows, width)."""
    store, made = Store(model), torch.Generator().manual_seed(1)
    begun = prompts(count)
    store.run(order := sorted(begun, key=lambda s: s.pending > 1), [s.pending for s in order])
    rows = [row for i, s in enumerate(begun) for row in (s, *(store.fork(s, 2) if i % 2 else ()))]
    states = torch.empty(0)
    for _ in range(steps):
        for row in rows:
            row.tokens.append(int(torch.randint(7, 50, (), generator=made)))
        states = store.run(rows, [1] * len(rows))
    return store, rows, states


@with_steps
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("count", [1, 9, 21, 45])  # 1 to 89 rows: panels of one to four vectors
@torch.inference_mode()
def test_states_are_those_of_plain_calls(name: str, count: int, monkeypatch: pytest.MonkeyPatch):
    model, calls = opened(CONFIGS[name]), []
    call = native.call
    monkeypatch.setattr(native, "call", lambda name, *given: (calls.append(name), call(name, *given))[1])
    _, rows, states = decoded(model, count)
    assert calls.count("one_step") >= 3
    exact = copy.deepcopy(model).double()
    for row, found in list(zip(rows, states))[:: max(1, count // 5)]:
        expected = states_of(exact, torch.tensor([row.tokens]))[0, -1]
        assert (found.double() - expected).abs().max() <= 2e-5 * expected.abs().max()


@with_steps
@torch.inference_mode()
def test_a_row_depends_on_no_other_row_and_not_on_the_threads():
    store, rows, states = decoded(opened(CONFIGS["llama"]), 45)
    threads = torch.get_num_threads()
    try:
        for count, chosen in ((1, [*range(len(rows))]), (2, [*range(len(rows))]), (2, [0, 5, 17, 33, 88]), (1, [40])):
            torch.set_num_threads(count)
            for i in chosen:
                store.cut(rows[i], rows[i].held - 1)  # its last token is run again
            assert torch.equal(store.run([rows[i] for i in chosen], [1] * len(chosen)), states[chosen])
    finally:
        torch.set_num_threads(threads)


@with_steps
@torch.inference_mode()
def test_weights_of_another_kind_and_other_families_go_without():
    forward = functional_of(opened(CONFIGS["llama"]))
    assert forward is not None and forward.step is not None
    gelu = LlamaConfig(**SIZES, hidden_act="gelu")
    for config in (gelu, Gemma2Config(**SIZES, head_dim=16)):
        forward = functional_of(opened(config))
        assert forward is not None and forward.step is None
    mixed = opened(CONFIGS["llama"])
    decoded(mixed, 2)
    mixed.bfloat16()
    assert decoded(mixed, 2)[2].dtype is torch.bfloat16


@with_steps
def test_a_step_that_departs_is_refused(monkeypatch: pytest.MonkeyPatch):
    call = native.call

    def wrong(name: str, *given: Any) -> None:
        if name != "one_step":
            call(name, *given)

    monkeypatch.setattr(native, "call", wrong)
    forward = functional_of(opened(CONFIGS["llama"]))
    assert forward is not None and forward.step is None


def test_without_a_compiler_there_is_no_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(native, "library", lambda: None)
    assert not native.has("one_step")
    forward = functional_of(opened(CONFIGS["llama"]))
    assert forward is not None and forward.step is None
