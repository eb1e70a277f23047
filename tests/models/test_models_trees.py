"""Attention on blocks: the states, log-probabilities and gradients of padded rows, with neither a mask nor a copy."""

from __future__ import annotations

import random
import shutil

import pytest
import torch
from models_family import family
from torch import Tensor
from torch.nn.attention import flex_attention
from transformers import PreTrainedModel

from tropism.models import forward, trees
from tropism.models.halves import states_of
from tropism.models.masks import states_under_mask, takes_trees
from tropism.models.trees import states_on_blocks, takes_blocks
from tropism.models.weights import Weights, has_bfloat16
from tropism.tensors import native
from tropism.tensors.batch import Batch
from tropism.tensors.blocks import Block, blocks
from tropism.tensors.collate import collate
from tropism.tensors.index import by_completion, tree_mask
from tropism.tensors.tree import Tree

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")  # a CPU has no kernel to compile
CC = shutil.which("cc") is not None
compiled = pytest.mark.skipif(not CC, reason="there is no C compiler")
FAMILIES = {  # how each attends
    "gpt2": True,
    "llama": True,
    "qwen2": True,  # fewer heads of keys than of queries
    "qwen3": True,
    "gpt_neox": True,
    "mistral": True,  # windows of 8 tokens
    "gemma3_text": True,  # every other layer a window
    "gemma2": CC,  # a cap on the scores
    "gpt_oss": CC,  # sinks
    "bloom": False,  # distances in place of positions
    "mamba": False,  # no attention
}


def forest(*shapes: tuple[int, tuple[int, ...]]) -> list[Tree]:
    rng = random.Random(0)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(rng.randint(10, 250) for _ in range(n))

    made = []
    for prompt, answers in shapes:
        some = tuple(tokens(n) for n in answers)
        trained = tuple(tuple(i % 4 != 2 for i in range(n)) for n in answers)  # tokens that a tool wrote stay untrained
        made.append(Tree("g", tokens(prompt), some, trained, (True,) * len(answers)))
    return made


MIXED = forest(
    (12, (9, 2, 2)),
    (3, (4, 4, 4)),
    (3, (4, 4, 4)),
    (1, (20,)),
    (15, (5,)),
    (0, (3, 2)),
    (2, (1, 0, 7, 1, 1)),
    (1, (0, 0)),
)


def logprobs(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """(N, L) log-probabilities, and the gradient of a sum of them with different weights."""
    model.zero_grad()
    found = forward.predict_tokens(model, batch).need("logprobs_BT")
    index_NL, mask_NL = by_completion(batch)
    found = torch.where(mask_NL, found.flatten()[index_NL], 0.0)
    (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
    return found.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def plain(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """The same of padded rows, with the model's own attention."""
    with monkeypatch.context() as patch:
        patch.setattr(forward, "is_compiled", lambda _: False)
        return logprobs(model, collate(MIXED, shared=False))


@pytest.fixture(params=["usual", "flex"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What computes attention: what this machine uses, or `flex_attention`, which is for graphics processors; torch
    computes it on a CPU too, but refuses gradients there, though its formula has them."""
    if request.param == "flex":
        monkeypatch.setattr(trees, "FLEX", {"cpu"})
        monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    return request.param


@pytest.mark.parametrize("kind", FAMILIES)
def test_each_family_is_equal_to_padded_rows(kind: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = family(kind)
    before = model.config._attn_implementation
    assert takes_blocks(model) == (FAMILIES[kind] or (way == "flex" and kind in {"gemma2", "gpt_oss"}))
    if not takes_blocks(model):
        return
    expected, slope = plain(model, monkeypatch)
    monkeypatch.setattr(forward, "cheapest", lambda *_: states_on_blocks)
    for batch in collate(MIXED, 60), collate(MIXED, shared=False):
        found, other = logprobs(model, batch)
        assert float((found - expected).abs().max()) < 5e-6
        assert float((other - slope).abs().max()) < 2e-6 * float(slope.abs().max())
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("kind", ["qwen2", "mistral", "gemma2"])
def test_without_a_compiler_torchs_kernel_is_used(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", lambda: None)
    model = family(kind)
    assert takes_blocks(model) == (kind != "gemma2")
    assert not trees.is_compiled(model)
    if takes_blocks(model):
        expected, slope = plain(model, monkeypatch)
        monkeypatch.setattr(forward, "cheapest", lambda *_: states_on_blocks)
        found, other = logprobs(model, collate(MIXED, 60))
        assert float((found - expected).abs().max()) < 5e-6
        assert float((other - slope).abs().max()) < 2e-6 * float(slope.abs().max())


@compiled
def test_a_cap_and_sinks_change_the_result(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cap so low, and sinks so high, that a mistake in them would show; the trial of each model compares it too."""
    capped, sunk = family("gemma2"), family("gpt_oss")
    for layer in capped.model.layers:
        layer.self_attn.attn_logit_softcapping = 0.3
    for layer in sunk.model.layers:
        layer.self_attn.sinks.data += torch.tensor([2.0, 1.0, 0.0, 3.0])
    for model, usual in ((capped, family("gemma2")), (sunk, family("gpt_oss"))):
        expected, slope = plain(model, monkeypatch)
        assert takes_blocks(model) and float((plain(usual, monkeypatch)[0] - expected).abs().max()) > 1e-3
        monkeypatch.setattr(forward, "cheapest", lambda *_: states_on_blocks)
        found, other = logprobs(model, collate(MIXED, 60))
        assert float((found - expected).abs().max()) < 5e-6
        assert float((other - slope).abs().max()) < 2e-6 * float(slope.abs().max())


@compiled
def test_half_precision_keeps_a_cap_and_float64_has_none_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    half, double = family("gemma2").bfloat16(), family("gemma2").double()
    assert takes_blocks(half) and not takes_blocks(double)
    batch = collate(MIXED, 60)
    assert states_on_blocks(half, batch).dtype is torch.bfloat16


@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "mistral"])
def test_in_float64_the_states_are_equal_to_rounding(kind: str, way: str) -> None:
    """The gradient is that of random weights on the states of every token of an answer."""
    model = family(kind).double()
    tokens = forest((12, (9, 2, 2)), (3, (4, 4)), (0, (3,)))
    batch = collate(tokens, 100)
    assert takes_trees(model)
    weight = torch.randn(batch.tokens_BT.numel(), 32, dtype=torch.float64)
    found, slopes = [], []
    for states_of_all in (states_under_mask, states_on_blocks):
        model.zero_grad()
        states = states_of_all(model, batch)
        (states * weight).sum().backward()
        found.append(states.detach())
        slopes.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert float((found[0] - found[1]).abs().max()) < 1e-12 * float(found[0].abs().max())
    assert float((slopes[0] - slopes[1]).abs().max()) < 1e-12 * float(slopes[0].abs().max())
    path = [*range(12), *range(21, 23)]  # the second answer of the first group, alone in a row
    alone = states_of(model, batch.tokens_BT[:, path])[0].detach()
    assert float((found[1][path] - alone).abs().max()) < 1e-12 * float(alone.abs().max())


def test_the_blocks_of_two_groups_by_hand() -> None:
    """5 prompt tokens with answers of 3, 2 and 2; and a row of 4 tokens, which leaves 3 of padding, before one of 7."""
    one = blocks(collate(forest((5, (3, 2, 2)))))
    assert one.own == (Block(0, 8, 0, 8), Block(8, 2, 8, 2, count=2, stride=2, key_stride=2))
    assert one.cross == (Block(8, 4, 0, 5),)
    two = blocks(collate(forest((1, (3,)), (5, (2,)))))
    assert two.kept_M.tolist() == list(range(11))  # the longest row is the first
    assert two.own == (Block(0, 7, 0, 7), Block(7, 4, 7, 4)) and two.cross == ()


def test_the_longest_answer_continues_its_prompt() -> None:
    plan = blocks(collate(forest((5, (2, 3)))))
    assert plan.kept_M.tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 5, 6]
    assert plan.own == (Block(0, 8, 0, 8), Block(8, 2, 8, 2)) and plan.cross == (Block(8, 2, 0, 5),)


def test_groups_of_one_shape_are_one_block() -> None:
    plan = blocks(collate(forest(*[(4, (3, 3))] * 5), 100))
    assert plan.own == (Block(0, 7, 0, 7, 5, 7, 7), Block(35, 3, 35, 3, 5, 3, 3))
    assert plan.cross == (Block(35, 3, 0, 4, 5, 3, 7),)


@pytest.mark.parametrize("seed", range(5))
def test_blocks_hold_each_pair_of_the_tree_mask_once(seed: int) -> None:
    rng = random.Random(seed)
    trees = forest(*((rng.randint(0, 5), tuple(rng.randint(0, 4) for _ in range(rng.randint(1, 5)))) for _ in range(9)))
    batch = collate([t for t in trees if t.size], 30)
    plan = blocks(batch)
    rows, width = batch.tokens_BT.shape
    expected = torch.block_diag(*tree_mask(batch)[:, 0].long())[plan.kept_M][:, plan.kept_M]
    found = torch.zeros_like(expected)
    for parts, own in ((plan.own, True), (plan.cross, False)):
        for b in parts:
            for i in range(b.count):
                piece = torch.ones(b.queries, b.keys, dtype=torch.long)
                query, key = b.query + i * b.stride, b.key + i * b.key_stride
                found[query : query + b.queries, key : key + b.keys] += piece.tril() if own else piece
    assert torch.equal(found, expected)
    left = torch.ones(rows * width, dtype=torch.bool)
    left[plan.kept_M] = False
    assert not (left & (batch.completion_BT.flatten() >= 0)).any() and not left[batch.last_N].any()


def test_no_memory_of_the_square_of_a_row(llama: PreTrainedModel) -> None:
    """A row of 2,400 tokens: a mask of it would have 5.8 million entries."""
    batch = collate(forest((400, (500, 500, 500, 500))))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            largest = max(
                largest, *(x.numel() for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, Tensor)), 0
            )
            return out

    with Watch():
        forward.hidden(llama, batch).sum().backward()
    assert largest < 2400 * 300


def test_a_family_whose_attention_has_more_to_it_says_so(llama: PreTrainedModel) -> None:
    x = torch.zeros(1, 1, 1, 1)
    with pytest.raises(NotImplementedError, match="position_bias"):
        trees.attend(llama, x, x, x, x, position_bias=x)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_that_are_computed_again_attend_as_before(
    llama: PreTrainedModel, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 both layouts round; they are then as far from each other as from float32."""
    if dtype == "bfloat16" and not has_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16 products")
    expected, slope = plain(llama, monkeypatch)
    monkeypatch.setattr(forward, "cheapest", lambda *_: states_on_blocks)
    assert takes_trees(llama)
    Weights(dtype=dtype, checkpointing=True).ready(llama)  # type: ignore[arg-type]
    found, other = logprobs(llama, collate(MIXED, 60))
    near = 2e-6 if dtype == "float32" else 0.05
    assert float((found - expected).abs().max()) < 10 * near
    assert float((other - slope).abs().max()) < near * float(slope.abs().max())
