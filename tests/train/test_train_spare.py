"""Completions that teach nothing are not computed, and the update is the one that computes them."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from test_train_loop import FLAT, change, descent, forest, weights
from torch import Tensor
from transformers import PreTrainedModel

from tropism.algorithms.grpo import GRPO
from tropism.algorithms.ppo import PPO
from tropism.algorithms.rloo import RLOO
from tropism.protocols import Sparing
from tropism.tensors.batch import Batch
from tropism.tensors.collate import collate
from tropism.train.loop import Learner

ON_ALL = [GRPO(kl=0, drop_equal=False), GRPO(kl=0, drop_equal=False, weight="completion"), RLOO(kl=0)]


def judged(shared: bool, rewards: list[tuple[float, float]]) -> Batch:
    trees = [dataclasses.replace(t, reward=r) for t, r in zip(forest(groups=len(rewards)), rewards)]
    return collate(trees, shared=shared)


def updated(model: PreTrainedModel, algorithm: Any, batch: Batch) -> tuple[Tensor, float, int]:
    """The change of the weights, the loss, and the tokens that went through the model."""
    model = copy.deepcopy(model)
    before, seen = weights(model), []
    model.get_input_embeddings().register_forward_hook(lambda _, __, out: seen.append(out[..., 0].numel()))
    metrics = descent(Learner({"policy": model}, FLAT, 10)).update(algorithm, algorithm.credit(batch))
    return change(model, before), metrics["loss"].value, sum(seen)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("algorithm", ON_ALL, ids=repr)
def test_an_update_without_idle_completions_is_the_same(
    llama: PreTrainedModel, algorithm: Any, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = judged(shared, [(1.0, 0.0), (0.5, 0.5), (-1.0, 2.0), (0.0, 0.0)])
    llama(torch.tensor([[1, 2]]))
    found, loss, tokens = updated(llama, algorithm, batch)
    monkeypatch.setattr(type(algorithm), "idle", lambda self, batch: torch.zeros(batch.n, dtype=torch.bool))
    monkeypatch.setattr("tropism.train.loop.spared", lambda _, batch: (batch, []))
    expected, whole, all_tokens = updated(llama, algorithm, batch)
    assert float(expected.abs().max()) > 1e-3
    assert torch.allclose(found, expected, atol=1e-6) and loss == pytest.approx(whole, abs=1e-6)
    assert all_tokens - tokens >= 2 * 9  # both groups of equal rewards leave: a prompt of 3, answers of 4 and 2


@pytest.mark.parametrize(
    "algorithm",
    [GRPO(drop_equal=False, kl_in="loss"), GRPO(kl=0, drop_equal=False, entropy=0.1), RLOO(kl=0, entropy=0.1)],
    ids=repr,
)
def test_what_another_term_of_the_loss_teaches_is_not_idle(algorithm: Any) -> None:
    batch = judged(True, [(1.0, 0.0), (0.5, 0.5)])
    batch = algorithm.credit(batch.replace(ref_logprobs_BT=batch.old_logprobs_BT))
    assert not algorithm.idle(batch).any() and not isinstance(PPO(), Sparing)
    assert RLOO(kl=0).idle(RLOO(kl=0).credit(batch)).tolist() == [False, False, True, True]


def test_an_update_that_teaches_nothing_has_a_gradient_of_zero(llama: PreTrainedModel) -> None:
    batch = judged(True, [(0.5, 0.5), (2.0, 2.0)])
    moved, loss, tokens = updated(llama, RLOO(kl=0), batch)
    assert not moved.any() and loss == 0 and tokens > 0
