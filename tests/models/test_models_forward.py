"""Predictions of a batch against one plain call of the model a sequence, on all four kinds of model."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from transformers import PreTrainedModel

from tropism.models import forward
from tropism.models.forward import predict_tokens
from tropism.models.masks import takes_trees
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree
from tropism.types import SamplingParams

TREES = [
    Tree("a", (5, 6, 7), ((8, 9, 10, 11), (12,), (8, 9)), ((True,) * 4, (True,), (True, False)), (True,) * 3),
    Tree("b", (20,), ((21, 22, 23),), ((True, False, True),), (True,)),
    Tree("c", tuple(range(30, 41)), ((5, 6), (7,)), ((True, True), (True,)), (True,) * 2),
]


def plainly(
    model: PreTrainedModel, sampling: SamplingParams | None = None, trees: list[Tree] = TREES
) -> dict[tuple[int, ...], list[float]]:
    """Log-probabilities of each completion's trained tokens, by one call of the model for each sequence."""
    temperature = sampling.temperature if sampling else 1.0
    found = {}
    for item in trees:
        for answer, trained in zip(item.completions, item.trained):
            logits = model(torch.tensor([item.prompt + answer])).logits[0] / temperature
            logprobs = logits.log_softmax(-1)
            start = len(item.prompt) - 1
            found[item.prompt + answer] = [
                float(logprobs[start + i, token]) for i, (token, keep) in enumerate(zip(answer, trained)) if keep
            ]
    return found


def by_sequence(batch: Batch, x_BT: torch.Tensor, trees: list[Tree] = TREES) -> dict[tuple[int, ...], list[float]]:
    sequences = [item.prompt + answer for item in trees for answer in item.completions]
    rows = [x_BT[batch.loss_mask_BT & (batch.completion_BT == n)].tolist() for n in range(batch.n)]
    return dict(zip(sequences, rows))


def assert_close(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key in found:
        assert found[key] == pytest.approx(expected[key], abs=2e-5)


@pytest.mark.parametrize(("shared", "row_tokens"), [(True, 0), (True, 1000), (False, 0)])
@torch.no_grad()
def test_log_probabilities_equal_one_call_a_sequence(any_kind: PreTrainedModel, shared: bool, row_tokens: int):
    assert takes_trees(any_kind)
    batch = collate(TREES, row_tokens, shared)
    found = predict_tokens(any_kind, batch).need("logprobs_BT")
    assert_close(by_sequence(batch, found), plainly(any_kind))
    assert found[~batch.loss_mask_BT].abs().max() == 0


@torch.no_grad()
def test_temperature_is_that_of_the_sampling(llama: PreTrainedModel):
    batch, sampling = collate(TREES), SamplingParams(temperature=0.5)
    found = predict_tokens(llama, batch, sampling).need("logprobs_BT")
    assert_close(by_sequence(batch, found), plainly(llama, sampling))


@pytest.mark.parametrize("shared", [True, False])
@torch.no_grad()
def test_a_sliding_window_keeps_its_own_attention(sliding: PreTrainedModel, shared: bool):
    assert takes_trees(sliding)
    trees = [dataclasses.replace(t, prompt=t.prompt * 9) for t in TREES]  # most are longer than the window
    batch = collate(trees, shared=shared)
    found = by_sequence(batch, predict_tokens(sliding, batch).need("logprobs_BT"), trees)
    assert_close(found, plainly(sliding, trees=trees))
    sliding.config.sliding_window = None
    wider = plainly(sliding, trees=trees)
    assert any(found[key] != pytest.approx(wider[key], abs=1e-2) for key in found)  # the window is seen in the numbers


@torch.no_grad()
def test_entropy_is_that_of_the_state_each_token_was_chosen_in(llama: PreTrainedModel):
    batch = collate(TREES[1:2])
    assert predict_tokens(llama, batch).entropy_BT is None
    found = predict_tokens(llama, batch, entropies=True).need("entropy_BT")
    p = llama(torch.tensor([[20, 21, 22, 23]])).logits[0].softmax(-1)
    entropy = (-p * p.log()).sum(-1).tolist()
    assert found[0].tolist() == pytest.approx([0, entropy[0], 0, entropy[2]], abs=1e-4)


def gradients(model: PreTrainedModel, prediction: Prediction, of: str = "logprobs_BT") -> list[torch.Tensor]:
    model.zero_grad()
    (prediction.need(of) * torch.arange(100.0)[: prediction.need(of).shape[1]]).sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("chunk", [1 << 24, 3 * 300])
def test_the_gradient_of_a_bonus_is_that_of_the_entropy(llama: PreTrainedModel, monkeypatch, chunk: int):
    """Against - sum p log p of plain calls; only who asks for it pays for it."""
    monkeypatch.setattr(forward, "CHUNK", chunk)
    batch = collate(TREES[1:2])
    assert predict_tokens(llama, batch, entropies=True).entropy_bonus_BT is None
    assert not predict_tokens(llama, batch, entropies=True).need("entropy_BT").requires_grad
    found = predict_tokens(llama, batch, entropies=True, bonus=True)
    assert not found.need("entropy_BT").requires_grad
    assert found.need("entropy_BT").equal(found.need("entropy_bonus_BT"))
    slopes = gradients(llama, found, "entropy_bonus_BT")
    llama.zero_grad()
    p = llama(torch.tensor([[20, 21, 22, 23]])).logits[0].softmax(-1)
    entropy = (-p * p.log()).sum(-1)
    (1 * entropy[0] + 3 * entropy[2]).backward()
    expected = [p.grad for p in llama.parameters() if p.grad is not None]
    assert max(float(e.abs().max()) for e in expected) > 1e-2
    assert all(torch.allclose(s, e, atol=1e-4, rtol=1e-4) for s, e in zip(slopes, expected, strict=True))


@pytest.mark.parametrize("sampling", [None, SamplingParams(temperature=0.7, top_k=20, top_p=0.9)], ids=["all", "cut"])
def test_a_head_in_chunks_says_the_same(llama: PreTrainedModel, monkeypatch, sampling: SamplingParams | None):
    batch = collate(TREES)
    monkeypatch.setattr(forward, "plain_head", lambda _: None)
    whole = predict_tokens(llama, batch, sampling, entropies=True)
    expected = gradients(llama, whole)
    monkeypatch.setattr(forward, "CHUNK", 3 * llama.config.vocab_size)
    sizes = []
    llama.get_output_embeddings().register_forward_hook(lambda _m, args, _out: sizes.append(len(args[0])))
    chunked = predict_tokens(llama, batch, sampling, entropies=True)
    assert max(sizes) == 3
    assert sum(sizes) == batch.loss_mask_BT.sum() == 11  # nothing but trained tokens goes through the head
    for name in ("logprobs_BT", "entropy_BT"):
        assert torch.allclose(chunked.need(name), whole.need(name), atol=1e-6)
    found = gradients(llama, chunked)
    assert all(torch.allclose(f, e, atol=1e-4, rtol=1e-4) for f, e in zip(found, expected, strict=True))


def test_a_batch_without_trained_tokens_predicts_zeros(llama: PreTrainedModel):
    batch = collate([Tree("g", (5, 6), ((7, 8),), ((False, False),), (True,))])
    found = predict_tokens(llama, batch).need("logprobs_BT")
    assert found.tolist() == [[0] * 4]
    found.sum().backward()
    assert all(math.isfinite(float(p.grad.sum())) for p in llama.parameters() if p.grad is not None)
