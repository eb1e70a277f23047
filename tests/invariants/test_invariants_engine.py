"""The engine and the trainer are one model: the same log-probabilities, the same greedy tokens as `generate`."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from tropism.engines.local import LocalEngine
from tropism.models.forward import predict_tokens
from tropism.tensors.collate import collate
from tropism.tensors.encode import tree
from tropism.text.chat import prompt_tokens, stop_tokens
from tropism.types import Completion, Group, Message, SamplingParams

QUESTIONS = ("7", "19 hari", "How does one say 31 days in French and in Malay?", "x", "7 days and 9 days")
PROMPTS = [
    *((Message("user", q),) for q in QUESTIONS),
    (Message("text", "1 days, 1 jours"),),
    (Message("system", "Be brief."), Message("user", "8 jours"), Message("assistant", "8"), Message("user", "9 hari")),
]


@pytest.fixture
def model(any_kind: PreTrainedModel, words) -> PreTrainedModel:
    """Likes to stop, so that samples of all lengths decode side by side."""
    with torch.no_grad():
        any_kind.get_output_embeddings().weight[words.eos_token_id] *= 4
    return any_kind


SHAPES = [
    {},
    {"temperature": 0.6},
    {"top_k": 12},
    {"top_p": 0.7},
    {"temperature": 1.4, "top_k": 40, "top_p": 0.9},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_log_probabilities_of_the_engine_are_those_of_the_trainer(model: PreTrainedModel, words, shape: dict):
    sampling = SamplingParams(n=3, max_tokens=16, seed=11, **shape)
    answers = LocalEngine(model, words, rows=8).generate(PROMPTS, sampling)
    groups = [Group(str(i), prompt, row) for i, (prompt, row) in enumerate(zip(PROMPTS, answers))]
    batch = collate([tree(g, words, 128) for g in groups], 100)
    trainer = predict_tokens(model, batch, sampling).need("logprobs_BT")
    engine = batch.need("old_logprobs_BT")
    assert batch.loss_mask_BT.sum() == sum(len(c.tokens or ()) for row in answers for c in row) > 60
    assert torch.allclose(trainer[batch.loss_mask_BT], engine[batch.loss_mask_BT], atol=2e-5)
    if shape:  # and the shape is seen in them
        assert not torch.allclose(predict_tokens(model, batch).need("logprobs_BT"), engine, atol=1e-2)


@torch.no_grad()
def test_greedy_is_generate_token_for_token(model: PreTrainedModel, words):
    found = LocalEngine(model, words, rows=3).generate(PROMPTS, SamplingParams(max_tokens=24, temperature=0))
    lengths = set()
    for prompt, (answer,) in zip(PROMPTS, found):
        tokens = torch.tensor([prompt_tokens(words, prompt)])
        theirs = model.generate(
            tokens, max_new_tokens=24, do_sample=False, eos_token_id=sorted(stop_tokens(words)), use_cache=True
        )
        expected = tuple(theirs[0, tokens.shape[1] :].tolist())
        assert answer.tokens == expected
        lengths.add(len(expected))
    assert len(lengths) > 1  # early stops among them


@torch.no_grad()
def test_a_sliding_window_is_kept(sliding: PreTrainedModel, words):
    """Rows of unlike lengths grow past the window of 24 tokens side by side."""
    found = LocalEngine(sliding, words, rows=3).generate(PROMPTS, SamplingParams(max_tokens=40, temperature=0))
    for prompt, (answer,) in zip(PROMPTS, found):
        tokens = torch.tensor([prompt_tokens(words, prompt)])
        theirs = sliding.generate(tokens, max_new_tokens=40, do_sample=False, eos_token_id=sorted(stop_tokens(words)))
        assert answer.tokens == tuple(theirs[0, tokens.shape[1] :].tolist())
    assert max(len(row[0].tokens or ()) for row in found) == 40


def drawn(engine: LocalEngine, prompts: list, sampling: SamplingParams) -> list[tuple[Completion, ...]]:
    """Completions by prompt, log-probabilities left out: they may differ in their last digit."""
    rows = engine.generate(prompts, sampling)
    return [tuple(Completion(c.text, c.tokens, finish_reason=c.finish_reason) for c in row) for row in rows]


@pytest.mark.parametrize("shape", [{}, {"top_k": 12, "top_p": 0.8}], ids=str)
def test_a_sample_does_not_depend_on_what_is_sampled_beside_it(model: PreTrainedModel, words, shape: dict):
    sampling = SamplingParams(n=3, max_tokens=16, seed=7, **shape)
    together = drawn(LocalEngine(model, words), PROMPTS, sampling)
    assert len({len(c.tokens or ()) for row in together for c in row}) > 3
    for rows in (1, 2, 5):
        assert drawn(LocalEngine(model, words, rows=rows), PROMPTS, sampling) == together
    assert drawn(LocalEngine(model, words), PROMPTS[::-1], sampling) == together[::-1]
    alone = [drawn(LocalEngine(model, words), [prompt], sampling)[0] for prompt in PROMPTS]
    assert alone == together
