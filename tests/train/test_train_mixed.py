"""An update that mixes in another loss: its gradient is the sum of two, each divided by its own count."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tropism.algorithms.nll import NLL
from tropism.algorithms.rloo import RLOO
from tropism.models.forward import predict_tokens
from tropism.tensors.batch import Batch
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree
from tropism.train.loop import Learner, Mixed
from tropism.train.optim import Optim
from tropism.types import SamplingParams

FLAT = Optim(lr=0.5, schedule="constant", warmup=0.0, clip_norm=0.0)
WARM = SamplingParams(n=2, temperature=0.7)


def answers() -> Batch:
    """Three groups of two answers, credited for RLOO."""
    kept = ((True,) * 3, (True,) * 2)
    trees = [
        Tree(
            f"g{g}",
            (5 + g, 6),
            ((20 + g, 21, 22), (30, 31 + g)),
            kept,
            (True, True),
            ((-3.0,) * 3, (-4.0,) * 2),
            (0.0, g),
        )
        for g in range(3)
    ]
    batch = collate(trees)
    return RLOO(kl=0.1).credit(batch.replace(ref_logprobs_BT=torch.full(batch.tokens_BT.shape, -3.5)))


def documents() -> Batch:
    """Two documents, of 5 and of 2 trained tokens."""
    rows = ((40, 41, 42, 43, 44), (50, 51))
    return collate([Tree(f"d{i}", (7,), (row,), ((True,) * len(row),), (True,)) for i, row in enumerate(rows)])


def gradients(model: PreTrainedModel, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found)]


def updated(model: PreTrainedModel, batch: Batch, mixed: Mixed | None, **settings: Any) -> list[Tensor]:
    """What an update hands to the optimiser."""
    learner, seen = Learner({"policy": model}, FLAT, 10, sampling=WARM, **settings), []

    def step() -> None:
        seen.extend(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters())

    learner.optimizer.step = step  # type: ignore[method-assign]
    learner.update(RLOO(kl=0.1), batch, mixed=mixed)
    return seen


@pytest.mark.parametrize("pass_tokens", [0, 1])
def test_the_gradient_is_the_sum_of_both(llama: PreTrainedModel, pass_tokens: int) -> None:
    """Of the policy at the temperature it was sampled at, and of the documents at temperature 1."""
    model = llama.double()
    ours, theirs = answers(), documents()
    ours = ours.replace(
        advantages_BT=ours.need("advantages_BT").double(), old_logprobs_BT=ours.need("old_logprobs_BT").double()
    )
    loss, _ = RLOO(kl=0.1).loss(ours, predict_tokens(model, ours, WARM, True))
    assert float(loss.count) == 6  # completions
    first = gradients(model, loss.total / 6)
    logprobs = model(input_ids=torch.tensor([[7, 40, 41, 42, 43, 44]])).logits[0].log_softmax(-1)
    more = model(input_ids=torch.tensor([[7, 50, 51]])).logits[0].log_softmax(-1)
    said = [logprobs[i, t] for i, t in enumerate((40, 41, 42, 43, 44))] + [more[i, t] for i, t in enumerate((50, 51))]
    second = gradients(model, -torch.stack(said).mean())
    found = updated(copy.deepcopy(model), ours, Mixed(NLL(), theirs, 2.5), pass_tokens=pass_tokens)
    for a, b, c in zip(found, first, second):
        assert torch.allclose(a, b + 2.5 * c, atol=1e-6)
    assert max(float(b.abs().max()) for b in first) > 1e-3 and max(float(c.abs().max()) for c in second) > 1e-3
    alone = updated(copy.deepcopy(model), ours, None, pass_tokens=pass_tokens)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(alone, first))


def test_where_the_answers_teach_nothing_the_documents_still_do(llama: PreTrainedModel) -> None:
    silent = answers().replace(loss_mask_BT=torch.zeros_like(answers().loss_mask_BT))
    found = updated(copy.deepcopy(llama), silent, Mixed(NLL(), documents(), 1.0))
    assert any(float(g.abs().max()) > 1e-3 for g in found)
    assert all(float(g.abs().max()) == 0 for g in updated(copy.deepcopy(llama), silent, None))
