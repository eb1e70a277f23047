"""Recomputed layers give the same gradients for less memory; bfloat16 is for what is frozen or computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tropism.engines.local import LocalEngine
from tropism.errors import TropismError
from tropism.models import weights
from tropism.models.adapters import Adapter, trained_state
from tropism.models.folder import save
from tropism.models.forward import predict_scores, predict_tokens, predict_values
from tropism.models.weights import Weights, has_bfloat16, recompute
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree
from tropism.types import Message, SamplingParams

BATCH = collate([Tree("g", (7, 8, 9), ((10, 11, 12), (13,)), ((True,) * 3, (True,)), (True, True))])
LORA = Adapter(r=4, alpha=8)


@pytest.fixture
def base(any_kind: PreTrainedModel, words, tmp_path: Path) -> str:
    save(any_kind, words, tmp_path)
    return str(tmp_path)


def gradients(model: PreTrainedModel) -> tuple[dict[str, torch.Tensor], int]:
    """Of each trained weight, and how many bytes the backward pass was left."""
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = predict_tokens(model, BATCH).need("logprobs_BT").sum()
    loss.backward()
    size = sum(n for pointer, n in kept.items() if pointer not in own)
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, size


@pytest.mark.parametrize("adapter", [Adapter(), LORA], ids=["full", "lora"])
def test_recomputed_layers_give_the_same_gradients_for_less_memory(base: str, adapter: Adapter):
    plain, size = gradients(Weights(adapter=adapter).train_lm(base, 0))
    found, smaller = gradients(Weights(adapter=adapter, checkpointing=True).train_lm(base, 0))
    assert found.keys() == plain.keys() and plain
    for name, gradient in found.items():
        assert torch.allclose(gradient, plain[name], atol=1e-6, rtol=1e-6), name
    assert smaller < 0.7 * size


def test_each_of_two_roles_is_computed_again_with_its_own_adapter(base: str):
    """Both are computed forward before either goes backward, as in an update of PPO."""
    found: list[dict[str, torch.Tensor]] = []
    for checkpointing in (False, True):
        how = Weights(adapter=LORA, checkpointing=checkpointing)
        policy, critic = how.train_lm(base, 0), how.train_scalar(base, 1)
        torch.nn.init.ones_(critic.get_submodule("score").get_parameter("weight"))
        with torch.no_grad():  # B = 0 gives A no gradient
            for n, p in (*policy.named_parameters(), *critic.named_parameters()):
                p += 0.1 if "lora_B" in n else 0
        loss = predict_tokens(policy, BATCH).need("logprobs_BT").sum() + predict_values(critic, BATCH).sum()
        loss.backward()
        found.append(
            {
                f"{m is policy} {n}": p.grad
                for m in (policy, critic)
                for n, p in m.named_parameters()
                if p.grad is not None
            }
        )
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert gradient.abs().max() > 0 and torch.allclose(found[1][name], gradient, atol=1e-5, rtol=1e-5), name


def test_recomputed_layers_sample_the_same(llama: PreTrainedModel, words, tmp_path: Path):
    save(llama, words, tmp_path)
    prompt, params = (Message("user", "26 days"),), SamplingParams(n=2, max_tokens=8, seed=3)
    said = [
        LocalEngine(Weights(checkpointing=on).train_lm(str(tmp_path), 0), words).generate([prompt], params)
        for on in (False, True)
    ]
    for one, other in zip(*said):
        assert [c.tokens for c in one] == [c.tokens for c in other]
        for mine, theirs in zip(one, other):  # the layers are run in another way, which moves the last digits
            assert mine.logprobs == pytest.approx(theirs.logprobs, abs=2e-5)


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(TropismError, match="has no layers that can be computed again: set checkpointing = false"):
        recompute(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


bfloat16 = pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16 products")


@bfloat16
def test_in_bfloat16_the_frozen_base_is_half_the_size_and_what_is_trained_is_not(base: str, words, tmp_path: Path):
    half, full = Weights(adapter=LORA, dtype="bfloat16"), Weights(adapter=LORA)
    policy, critic, exact = half.train_lm(base, 0), half.train_scalar(base, 0), full.train_lm(base, 0)
    for model in (policy, critic):
        frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
        trained = {p.dtype for p in model.parameters() if p.requires_grad}
        assert (frozen, trained) == ({torch.bfloat16}, {torch.float32})
    found, expected = (predict_tokens(m, BATCH).need("logprobs_BT") for m in (policy, exact))
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.2  # logits of some 10 nats, with 8 bits
    assert torch.equal(predict_tokens(half.freeze_lm(base), BATCH).need("logprobs_BT"), found)
    assert predict_scores(critic, BATCH).dtype == torch.float32
    save(policy, words, tmp_path / "lora")
    again = Weights(adapter=LORA).train_lm(str(tmp_path / "lora"), 0)
    assert all(torch.equal(t, trained_state(again)[n]) for n, t in trained_state(policy).items())
    LocalEngine(policy, words).generate([(Message("user", "26"),)], SamplingParams(max_tokens=4))


@bfloat16
def test_without_an_adapter_float32_weights_are_trained_and_the_layers_compute_in_bfloat16(base: str):
    how = Weights(dtype="bfloat16", checkpointing=True)
    model, exact = how.train_lm(base, 0), Weights().train_lm(base, 0)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    seen = []
    linear = next(m for m in model.base_model.modules() if type(m).__name__ in ("Linear", "Conv1D"))
    linear.register_forward_hook(lambda _m, _args, out: seen.append(out.dtype))
    found, expected = (predict_tokens(m, BATCH).need("logprobs_BT") for m in (model, exact))
    assert seen[0] == torch.bfloat16
    assert 0 < (found - expected).abs().max() < 0.2
    found.sum().backward()
    expected.sum().backward()
    mine, theirs = (torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]) for m in (model, exact))
    assert torch.cosine_similarity(mine, theirs, 0) > 0.99
    with torch.no_grad():
        assert torch.equal(predict_tokens(how.freeze_lm(base), BATCH).need("logprobs_BT"), found)


@bfloat16
def test_it_is_sampled_from_as_well(llama: PreTrainedModel, words, tmp_path: Path):
    save(llama, words, tmp_path)
    model = Weights(dtype="bfloat16").train_lm(str(tmp_path), 0)
    LocalEngine(model, words).generate([(Message("user", "26"),)], SamplingParams(max_tokens=4))


def test_hardware_without_bfloat16_is_one_sentence(llama: PreTrainedModel, words, tmp_path: Path, monkeypatch):
    save(llama, words, tmp_path)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert not weights.has_bfloat16(torch.device("cpu"))
    for how in (Weights(dtype="bfloat16"), Weights(dtype="bfloat16", adapter=LORA)):
        with pytest.raises(TropismError, match=r'dtype = "bfloat16" .* cpu.*: use "float32"'):
            how.train_lm(str(tmp_path), 0)
