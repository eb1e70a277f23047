"""NLL by hand: the sum over trained tokens, divided once by how many there are."""

from __future__ import annotations

import pytest
import torch

from tropism.algorithms.nll import NLL
from tropism.tensors.batch import Prediction
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree

TREES = [
    Tree("a", (1,), ((2, 3, 4),), ((True, False, True),), (True,)),
    Tree("b", (5, 6), ((7,),), ((True,),), (True,)),
]


def test_loss_is_the_mean_over_trained_tokens():
    batch = collate(TREES, 100)
    logprobs = -batch.tokens_BT.float() / 10  # token 2 costs 0.2 nats, token 4 costs 0.4, …
    loss, metrics = NLL().loss(batch, Prediction(logprobs_BT=logprobs))
    assert float(loss.total) == pytest.approx(0.2 + 0.4 + 0.7)
    assert float(loss.count) == 3
    assert metrics == {}
    assert NLL().credit(batch) is batch


def test_gradient_reaches_trained_tokens_only():
    batch = collate(TREES, 100)
    logprobs = torch.zeros_like(batch.tokens_BT, dtype=torch.float32, requires_grad=True)
    NLL().loss(batch, Prediction(logprobs_BT=logprobs))[0].total.backward()
    assert logprobs.grad.tolist() == (-batch.loss_mask_BT.float()).tolist()
