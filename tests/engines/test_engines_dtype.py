"""Sampling in bfloat16 from a model that is trained in float32."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from tropism.engines.local import Local, LocalEngine
from tropism.store.fingerprint import describe
from tropism.text.chat import prompt_tokens
from tropism.types import Message, SamplingParams

ASK = (Message("user", "7 jours"),)


@torch.no_grad()
def apart(engine: LocalEngine, model: PreTrainedModel, words) -> float:
    """The largest difference of the engine's log-probabilities from those of the model in float32."""
    prompt, worst = prompt_tokens(words, ASK), 0.0
    for answer in engine.generate([ASK], SamplingParams(n=4, max_tokens=8))[0]:
        tokens = torch.tensor([[*prompt, *(answer.tokens or ())]])
        logp = model(input_ids=tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        mine = logp.gather(-1, tokens[0, len(prompt) :, None])[:, 0]
        worst = max(worst, float((mine - torch.tensor(answer.logprobs)).abs().max()))
    return worst


def test_a_bfloat16_engine_is_near_the_trained_model_and_follows_it(llama: PreTrainedModel, words):
    exact, low = LocalEngine(llama, words), LocalEngine(llama, words, dtype="bfloat16")
    assert apart(exact, llama, words) < 1e-4 < apart(low, llama, words) < 0.5
    with torch.no_grad():
        for weight in llama.parameters():
            weight.mul_(-1.2)
    low.load(None, "p2")
    assert apart(low, llama, words) < 0.5
    assert llama.dtype == torch.float32


def test_only_the_dtype_decides_what_a_run_is_called():
    assert describe({"engine": Local(rows=8)}) == describe({"engine": Local()})
    assert describe({"engine": Local(dtype="bfloat16")}) != describe({"engine": Local()})
    assert describe({"engine": Local(dtype="bfloat16", rows=8)}) == describe({"engine": Local(dtype="bfloat16")})
