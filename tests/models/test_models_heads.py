"""Log-probabilities through a plain head, against the model's own logits; and no logits are kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models_family import family
from torch import Tensor
from transformers import PreTrainedModel

from tropism.models import forward, heads
from tropism.models.heads import plain_head
from tropism.tensors.batch import Batch
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree
from tropism.types import SamplingParams

FAMILIES = {  # what stands between the last states and the logits
    "llama": True,
    "gpt2": True,  # tied to the embeddings
    "phi": True,  # a bias
    "gptj": True,
    "gemma2": False,  # a cap
    "cohere": False,  # a scale
}
YES = (True,) * 40


def batch() -> Batch:
    answers = (tuple(range(40, 80)), tuple(range(100, 109)))
    return collate([Tree("g", (9, 8, 7), answers, (YES, YES[:9]), (True, True))])


def predicted(model: PreTrainedModel, sampling: SamplingParams | None) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies, and the gradient of a weighted sum of the first."""
    model.zero_grad()
    found = forward.predict_tokens(model, batch(), sampling, entropies=True)
    logprobs, entropy = found.need("logprobs_BT"), found.need("entropy_BT")
    (logprobs * torch.linspace(-1, 2, logprobs.numel()).view_as(logprobs)).sum().backward()
    assert not entropy.requires_grad
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return logprobs.detach(), entropy, gradient


@pytest.mark.parametrize("sampling", [None, SamplingParams(temperature=0.7)], ids=["1.0", "0.7"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_each_family_is_equal_to_its_own_logits(
    kind: str, sampling: SamplingParams | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = family(kind)
    assert (plain_head(model) is not None) == FAMILIES[kind]
    absent_V = torch.zeros(model.config.vocab_size, dtype=torch.bool)
    absent_V[-30:] = True
    model.__dict__["absent_V"] = absent_V
    monkeypatch.setattr(heads, "CHUNK", 0)
    monkeypatch.setattr(heads, "ROWS", 10)  # several chunks
    found = predicted(model, sampling)
    monkeypatch.setattr(forward, "plain_head", lambda _: None)
    expected = predicted(model, sampling)
    for one, other in zip(found[:2], expected[:2]):
        assert torch.allclose(one, other, atol=3e-6)
    assert float((found[2] - expected[2]).abs().max()) < 2e-6 * float(expected[2].abs().max())


def test_the_gradient_is_that_of_differences(make_model: Callable[..., PreTrainedModel]) -> None:
    """In float64 logits are float32, so the differences are of steps of 1e-2."""
    head = torch.nn.Linear(3, 5).double()
    states, tokens = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 4, 2, 2])
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])

    def loss() -> Tensor:
        return (heads.chosen_by(head, states, tokens, 0.5, None, False)[0] * weights).sum()

    states.requires_grad_()
    loss().backward()
    for x in (states, head.weight, head.bias):
        assert x.grad is not None
        gradient, flat = x.grad.flatten(), x.detach().view(-1)
        for i in range(len(flat)):
            at, both = float(flat[i]), []
            for step in (1e-2, -1e-2):
                flat[i] = at + step
                both.append(float(loss().detach()))
            flat[i] = at
            assert float(gradient[i]) == pytest.approx((both[0] - both[1]) / 2e-2, abs=2e-3)


def test_no_logits_are_kept_for_the_backward_pass(llama: PreTrainedModel) -> None:
    plain_head(llama)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x):
        forward.predict_tokens(llama, batch(), entropies=True)
    assert kept and not any(shape[-1:] == (llama.config.vocab_size,) for shape in kept)
