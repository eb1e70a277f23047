"""Learning rates by hand, weight decay on matrices only, clipping to a global norm."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import PreTrainedModel

from tropism.train.optim import Optim, clip, optimizer, set_rate


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # 10 updates, 2 of them warm-up: thirds of the peak on the way up, then from the peak down over eighths
        ("linear", [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("cosine", [1 / 3, 2 / 3, *(0.5 + 0.5 * math.cos(math.pi * i / 8) for i in range(8))]),
    ],
)
def test_schedules_by_hand(schedule, expected: list[float]):
    optim = Optim(lr=0.1, schedule=schedule, warmup=0.2)
    assert [optim.rate(step, 10) for step in range(10)] == pytest.approx([0.1 * x for x in expected])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.07, 1.0])
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_rates_stay_between_zero_and_the_peak(schedule, warmup: float, steps: int):
    rates = [Optim(lr=0.1, schedule=schedule, warmup=warmup).rate(s, steps) for s in range(steps)]
    assert all(0 < rate <= 0.1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_weight_decay_touches_matrices_only(llama: PreTrainedModel):
    before = {name: p.detach().clone() for name, p in llama.named_parameters()}
    made = optimizer({"policy": llama}, Optim(lr=0.1, weight_decay=0.5))
    for parameter in llama.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    for name, parameter in llama.named_parameters():
        shrunk = 1 - 0.1 * 0.5 if parameter.ndim > 1 else 1.0
        assert torch.allclose(parameter, before[name] * shrunk), name
    assert {p.ndim for p in llama.parameters()} == {1, 2}


def test_each_model_has_its_own_rate(llama: PreTrainedModel, make_model):
    models = {"policy": llama, "critic": make_model(seed=1)}
    made = optimizer(models, Optim())
    set_rate(made, {"policy": 0.25, "critic": 0.5})
    rate = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    assert {rate[id(p)] for p in llama.parameters()} == {0.25}
    assert {rate[id(p)] for p in models["critic"].parameters()} == {0.5}


def test_parameters_at_rest_are_left_out(llama: PreTrainedModel):
    for parameter in llama.base_model.layers.parameters():
        parameter.requires_grad_(False)
    held = [p for group in optimizer({"policy": llama}, Optim()).param_groups for p in group["params"]]
    assert len(held) == len([p for p in llama.parameters() if p.requires_grad]) == 2


@pytest.mark.parametrize(("norm", "scale"), [(2.5, 0.5), (7.0, 1.0), (0.0, 1.0)])
def test_clip_scales_all_gradients_together(norm: float, scale: float):
    parameters = [torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(2))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0, 0.0])
    assert clip(parameters, norm) == pytest.approx(5.0)
    assert parameters[0].grad.tolist() == pytest.approx([3 * scale], rel=1e-5)
    assert parameters[1].grad.tolist() == pytest.approx([4 * scale, 0], rel=1e-5)
