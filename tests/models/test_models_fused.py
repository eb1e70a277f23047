"""Unmodified models compute with fused operations, and nothing but speed changes."""

from __future__ import annotations

import copy
import gc
import shutil
import weakref

import pytest
import torch
from models_family import family
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel

from tropism.models import fused as fusing
from tropism.models.functional import functional_of
from tropism.models.fused import fuse, is_fused
from tropism.models.halves import backbone, states_of
from tropism.models.weights import recompute
from tropism.tensors import matrices, native

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
TOKENS = torch.tensor([[5, 3, 8, 1, 9, 2, 7], [4, 4, 6, 2, 1, 3, 5]])


def trained(model: PreTrainedModel, tokens: torch.Tensor = TOKENS) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """States, and the gradients of some function of them."""
    model.zero_grad()
    states = states_of(model, tokens)
    (states * torch.arange(states.numel()).view_as(states).cos()).sum().backward()
    return states.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("kind", "kinds"),
    [
        ("llama", {"LlamaRMSNorm", "LlamaMLP", "LlamaAttention"}),
        ("qwen3", {"Qwen3RMSNorm", "Qwen3MLP", "Qwen3Attention"}),
        ("gemma2", {"Gemma2RMSNorm", "Gemma2Attention"}),  # its gates are GELU
        ("gpt_neox", {"GPTNeoXAttention"}),
        ("gpt2", set()),
    ],
)
def test_states_and_gradients_stay(kind: str, kinds: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain = family(kind), family(kind)
    plain.load_state_dict(model.state_dict())
    with monkeypatch.context() as without:
        without.setattr(native, "library", lambda: None)
        states, gradients = trained(plain)
    found, slopes = trained(model)
    assert {type(m).__name__ for m in model.modules() if is_fused(m)} == kinds
    assert not any(is_fused(m) for m in plain.modules())
    torch.testing.assert_close(found, states, atol=2e-5, rtol=1e-5)
    assert len(slopes) == len(gradients)
    for one, other in zip(slopes, gradients):
        torch.testing.assert_close(one, other, atol=2e-5 * float(other.abs().max()), rtol=1e-4)


def test_the_operations_are_really_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model, called = family("llama"), []
    states_of(model, TOKENS)
    before = native.call
    monkeypatch.setattr(native, "call", lambda name, *given: called.append(name) or before(name, *given))
    trained(model)
    layers = model.config.num_hidden_layers
    count = {name: called.count(name) for name in called}
    assert count["rms"] == count["rms_back"] == 2 * layers + 1
    assert count["gated"] == count["gated_back"] == layers and count["turn"] == 4 * layers


@pytest.mark.skipif(not native.has("multiply"), reason="there is no AVX-512")
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_many_tokens_go_through_products_of_their_own(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain, called = family(kind), family(kind), []
    plain.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    tokens = torch.randint(0, 10, (32, matrices.LEAST // 32))
    with monkeypatch.context() as without:
        without.setattr(native, "library", lambda: None)
        states, gradients = trained(plain, tokens)
    before = native.call
    monkeypatch.setattr(native, "call", lambda name, *given: called.append(name) or before(name, *given))
    found, slopes = trained(model, tokens)
    layers = model.config.num_hidden_layers
    assert called.count("mlp_forward") == called.count("mlp_backward") == layers and "gated" not in called
    assert called.count("multiply") == layers * (
        4 + 8 + 3
    )  # four projections, their gradients, those of the MLP's weights
    assert not any(name in part.__dict__ for part in model.modules() for name in ("q_proj", "o_proj"))
    torch.testing.assert_close(found, states, atol=2e-5, rtol=1e-5)
    for one, other in zip(slopes, gradients):
        torch.testing.assert_close(one, other, atol=2e-5 * float(other.abs().max()), rtol=1e-4)
    watched = model.get_submodule("model.layers.0.mlp.up_proj").register_forward_hook(lambda *_: None)
    called.clear()
    states_of(model, tokens)
    watched.remove()
    assert called.count("mlp_forward") == layers - 1 and called.count("gated") == 1
    model.get_submodule("model.layers.0.self_attn.k_proj").register_forward_hook(lambda *_: None)
    called.clear()
    assert torch.equal(states_of(model, tokens), states_of(model, tokens))
    assert called.count("multiply") == 2 * 4 * (layers - 1)


def test_other_precisions_and_other_users_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = family("llama")
    states_of(model, TOKENS)
    other = family("llama")
    monkeypatch.setattr(native, "call", lambda *_: pytest.fail("a fused operation was used"))
    model.double()
    assert states_of(model, TOKENS).dtype == torch.float64
    other(input_ids=TOKENS)  # the same classes and the same function for positions


def test_a_copy_computes_with_its_own_weights() -> None:
    model = family("llama")
    states = states_of(model, TOKENS)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(states_of(twin, TOKENS), states)


def test_a_model_is_freed_as_soon_as_nobody_uses_it() -> None:
    """Its weights may be mapped from a file, whose disk is then free, too."""
    model = family("llama")
    states_of(model, TOKENS)
    assert any(map(is_fused, model.modules()))
    weight = weakref.ref(model.get_input_embeddings().get_parameter("weight"))
    gc.disable()
    try:
        del model
        assert weight() is None
    finally:
        gc.enable()


def test_layers_that_are_computed_again_get_the_same_gradients() -> None:
    model, again = family("llama"), family("llama")
    again.load_state_dict(model.state_dict())
    recompute(again)
    for one, other in zip(trained(model)[1], trained(again)[1]):
        torch.testing.assert_close(one, other)


def test_decoding_still_does_without_modules() -> None:
    model = family("llama")
    assert functional_of(model) is not None
    states_of(model, TOKENS)
    assert any(is_fused(m) for m in model.modules()) and functional_of(model) is not None


def test_a_class_that_computes_something_else_stays_as_it_is() -> None:
    class OddRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(4)), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / x.abs().mean(-1, keepdim=True) * self.weight

    odd = OddRMSNorm()
    fuse(odd)
    assert not is_fused(odd) and fusing._norms[OddRMSNorm] is None


def test_without_a_compiler_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    model = family("llama")
    assert isinstance(model, LlamaForCausalLM)
    fuse(backbone(model))
    assert not any(is_fused(m) for m in model.modules())
