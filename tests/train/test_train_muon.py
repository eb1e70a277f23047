"""Muon against the singular value decomposition, against torch's own, and who takes it."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel

from tropism.train.muon import Muon, orthogonal
from tropism.train.optim import Optim, optimizer


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 12), (2, 12, 5)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, int, int]):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vt = torch.linalg.svd(x, full_matrices=False)
    turned = u.mT @ orthogonal(x) @ vt.mT  # diagonal where the vectors are the same
    values = turned.diagonal(dim1=1, dim2=2)
    assert ((values > 0.6) & (values < 1.25)).all()
    assert (turned - torch.diag_embed(values)).abs().max() < 1e-4


def test_no_gradient_moves_nothing_of_a_matrix():
    assert not orthogonal(torch.zeros(1, 3, 4)).any()


def test_equals_torch_within_bfloat16():
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in ((16, 24), (24, 16), (16, 24))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    before = [p.detach().clone() for p in ours]
    pair = (
        Muon([{"params": ours, "muon": True}], lr=0.01, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for each in pair:
            each.step()
    for a, b, start in zip(ours, theirs, before):
        assert (a - b).norm() < 0.02 * (b - start).norm()


def test_matrices_of_the_layers_take_it_and_the_rest_is_adamw(llama: PreTrainedModel):
    twin = copy.deepcopy(llama)
    for model, muon in ((llama, True), (twin, False)):
        for number, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer({"policy": model}, Optim(lr=0.1, weight_decay=0.5, muon=muon)).step()
    differ = {name for (name, a), b in zip(llama.named_parameters(), twin.parameters()) if not torch.equal(a, b)}
    assert differ == {name for name, p in llama.named_parameters() if p.ndim == 2 and ".layers." in name}
    assert all(p.grad is not None for p in llama.parameters())


def test_a_restored_optimiser_goes_on_the_same(llama: PreTrainedModel):
    def steps(model: PreTrainedModel, made: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            made.step()

    first = optimizer({"policy": llama}, Optim(muon=True))
    steps(llama, first, range(2))
    twin = copy.deepcopy(llama)
    second = optimizer({"policy": twin}, Optim(muon=True))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for model, made in ((llama, first), (twin, second)):
        steps(model, made, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(llama.parameters(), twin.parameters()))
