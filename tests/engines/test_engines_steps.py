"""Several tokens of each row in one operation are bit for bit those of one pass after the other."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from tropism.engines import _tree, local
from tropism.engines._store import Store
from tropism.engines.local import LocalEngine
from tropism.tensors import native
from tropism.types import Completion, Message, SamplingParams

pytestmark = pytest.mark.skipif(not native.has("several_steps"), reason="no C compiler, or a processor without AVX-512")
SIZES: dict[str, Any] = {
    "hidden_size": 40, "intermediate_size": 52, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}  # fmt: skip
KINDS = {
    "llama": (LlamaConfig, {"attention_bias": True, "tie_word_embeddings": True}),
    "mistral": (MistralConfig, {"sliding_window": 9}),
    "qwen3": (Qwen3Config, {"head_dim": 16}),
}
ASK = (Message("user", "7 jours"),)


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, words: PreTrainedTokenizerFast) -> PreTrainedModel:
    """It likes to stop: about one token in twelve. It has ten ids that no text can have."""
    kind, more = KINDS[request.param]
    torch.manual_seed(1)
    made = AutoModelForCausalLM.from_config(kind(vocab_size=len(words) + 10, **SIZES, **more)).eval()
    assert made.generation_config is not None
    made.generation_config.eos_token_id = [words.eos_token_id, *range(40, 60)]
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return made


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    call = native.call
    monkeypatch.setattr(native, "call", lambda name, *given: (made.append(name), call(name, *given))[1])
    return made


def singly(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (local, _tree):
        monkeypatch.setattr(module, "STEPS", 1)


@pytest.mark.parametrize("seed", range(4))
def test_they_are_those_of_single_passes(
    seed: int, model: PreTrainedModel, words: PreTrainedTokenizerFast, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few rows, with enough for each thread to work alone, and with little memory."""
    rng = random.Random(seed)
    prompts = [(Message("user", "n" * rng.randrange(1, 40) + str(i)),) for i in range(rng.choice([1, 5, 12]))]
    params = SamplingParams(
        n=rng.choice([1, 3, 8]), max_tokens=rng.choice([1, 7, 40]), seed=seed, temperature=[1.0, 0.7, 0.0, 1.0][seed]
    )
    memory = "40KiB" if seed == 3 else "1GiB"
    found = LocalEngine(model, words, memory=memory, rows=rng.choice([7, 256])).generate(prompts, params)
    assert "several_steps" in calls or params.max_tokens == 1
    calls.clear()
    singly(monkeypatch)
    assert LocalEngine(model, words).generate(prompts, params) == found
    assert "several_steps" not in calls


def test_lengths_of_all_kinds_occur(model: PreTrainedModel, words: PreTrainedTokenizerFast, calls: list[str]) -> None:
    """What the test above compares: rows that end at a stop, at different places of an operation, and at the limit."""
    answers = LocalEngine(model, words).generate([ASK], SamplingParams(n=90, max_tokens=40))[0]
    assert {a.finish_reason for a in answers} == {"stop", "length"} and len({len(a.tokens or ()) for a in answers}) > 15
    assert calls.count("several_steps") == 3 and all(t < len(words) for a in answers for t in a.tokens or ())


def test_threads_and_other_rows_change_no_bit(model: PreTrainedModel, words: PreTrainedTokenizerFast) -> None:
    engine, params = LocalEngine(model, words), SamplingParams(n=80, max_tokens=30, seed=5)
    apart = engine.generate([ASK, (Message("user", "x"),)], params)
    torch.set_num_threads(1)
    assert engine.generate([ASK], params) == apart[:1]


def test_handles_that_end_early_go_on(
    model: PreTrainedModel, words: PreTrainedTokenizerFast, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def story() -> tuple[list[Completion], int, int]:
        engine = LocalEngine(model, words)
        branches = engine.fork(engine.open([70, 71, 72]), 12)
        said = [a for _ in range(3) for a in engine.decode(branches, SamplingParams(max_tokens=13, seed=2))]
        engine.append(branches[0], [80, 81])
        said += engine.decode(branches[:2], SamplingParams(max_tokens=3, seed=2))
        store = engine.batch.way
        assert isinstance(store, Store)
        return said, store.own.used, store.tokens

    found = story()
    assert {a.finish_reason for a in found[0]} == {"stop", "length"} and "several_steps" in calls
    singly(monkeypatch)
    assert story() == found


@pytest.mark.parametrize("more", [{"stop": ("zz",)}, {"top_k": 5}, {"top_p": 0.9}])
def test_where_someone_looks_at_each_token_they_come_one_by_one(
    more: dict[str, Any], llama: PreTrainedModel, words: PreTrainedTokenizerFast, calls: list[str]
) -> None:
    engine = LocalEngine(llama, words)
    engine.generate([ASK], SamplingParams(n=4, max_tokens=8, **more))
    ruled = engine.open([70, 71], allowed=lambda _: range(20, 90))
    engine.decode([ruled], SamplingParams(max_tokens=8))
    assert "several_steps" not in calls and "one_step" in calls


def test_a_request_that_is_stepped_gets_a_token_at_a_time(
    llama: PreTrainedModel, words: PreTrainedTokenizerFast, calls: list[str]
) -> None:
    engine = LocalEngine(llama, words)
    engine.submit(request := engine.request(ASK, SamplingParams(max_tokens=9)))
    lengths = []
    while not engine.batch.idle:
        engine.step()
        lengths.append(len(request.rows[0].tokens))
    assert lengths == [*range(1, len(lengths) + 1)] and "several_steps" not in calls
