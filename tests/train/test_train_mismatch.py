"""The difference between engine and trainer, and its weights, worked by hand from moved log-probabilities."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tropism.algorithms.grpo import GRPO
from tropism.engines.local import LocalEngine
from tropism.errors import TropismError
from tropism.tensors.batch import Batch
from tropism.tensors.collate import collate
from tropism.tensors.encode import tree
from tropism.train.mismatch import compared
from tropism.types import Group, Message, SamplingParams

SAMPLING = SamplingParams(n=3, max_tokens=7, temperature=0.8)


@pytest.fixture
def batch(llama: PreTrainedModel, words: PreTrainedTokenizerFast) -> Batch:
    """Two groups with credit."""
    prompts = [(Message("user", "7 jours"),), (Message("user", "31 hari"),)]
    rows = LocalEngine(llama, words).generate(prompts, SAMPLING)
    groups = [Group(str(i), p, row) for i, (p, row) in enumerate(zip(prompts, rows))]
    trees = [dataclasses.replace(tree(g, words, 128), reward=(1.0, 2.0, -1.0)) for g in groups]
    batch = collate(trees)
    return GRPO().credit(batch.replace(ref_logprobs_BT=batch.old_logprobs_BT))


def test_in_float32_nothing_is_apart_and_nothing_changes(llama: PreTrainedModel, batch: Batch) -> None:
    same, found = compared(batch, llama, SAMPLING, 0, 0.0)
    assert same is batch and 0 <= found["engine_apart"] <= found["engine_apart_max"] < 2e-5
    weighed, found = compared(batch, llama, SAMPLING, 1, 2.0)
    assert found["engine_apart_max"] < 2e-5 and found["engine_truncated"] == 0
    assert torch.allclose(weighed.need("advantages_BT"), batch.need("advantages_BT"), atol=1e-4)


def test_weights_are_ratios_up_to_the_cap(llama: PreTrainedModel, batch: Batch) -> None:
    """An engine that was 0.5 nats too sure of every other token, and 1.5 too unsure of the others."""
    mask = batch.loss_mask_BT
    odd = torch.zeros_like(mask)
    odd[mask] = torch.arange(int(mask.sum())) % 2 == 1
    moved = batch.need("old_logprobs_BT") + torch.where(odd, 0.5, -1.5) * mask
    weighed, found = compared(batch.replace(old_logprobs_BT=moved), llama, SAMPLING, 0, 2.0)
    share = float(odd[mask].float().mean())
    assert found["engine_apart"] == pytest.approx(0.5 * share + 1.5 * (1 - share), abs=1e-4)
    assert found["engine_apart_max"] == pytest.approx(1.5, abs=1e-4)
    assert found["engine_truncated"] == pytest.approx(1 - share)  # e^1.5 = 4.5 is above the cap
    expected = batch.need("advantages_BT") * torch.where(odd, 2.718281828**-0.5, 2.0)
    assert torch.allclose(weighed.need("advantages_BT")[mask], expected[mask], atol=1e-4)
    assert torch.allclose(weighed.need("old_logprobs_BT")[mask], batch.need("old_logprobs_BT")[mask], atol=2e-5)
    lone, found = compared(batch.replace(old_logprobs_BT=moved), llama, SAMPLING, 0, 0.0)  # measured, not corrected
    assert found["engine_apart_max"] == pytest.approx(1.5, abs=1e-4) and torch.equal(
        lone.need("old_logprobs_BT"), moved
    )


def test_an_algorithm_without_advantages_is_refused(llama: PreTrainedModel, batch: Batch) -> None:
    with pytest.raises(TropismError, match="importance_cap weights advantages"):
        compared(batch.replace(advantages_BT=None), llama, SAMPLING, 0, 2.0)
