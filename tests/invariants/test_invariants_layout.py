"""The layout of a batch is never seen in a number: shared = padded rows, and padding and other prompts change nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tropism.algorithms.kwise import KWise
from tropism.models.folder import load_scalar, save
from tropism.models.forward import predict_scores, predict_tokens, predict_values
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate
from tropism.tensors.index import by_completion
from tropism.tensors.rows import passes, take_rows
from tropism.tensors.tree import Tree


def forest(prompts: tuple[int, ...] = (1, 9, 4), k: int = 3) -> list[Tree]:
    rng = random.Random(0)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(rng.randint(10, 250) for _ in range(n))

    answers = [tuple(tokens(rng.randint(1, 7)) for _ in range(k)) for _ in prompts]
    trained = [tuple((True,) * (len(c) - 1) + (len(c) % 2 == 0,) for c in row) for row in answers]
    return [
        Tree(f"g{g}", tokens(n), answers[g], trained[g], (True,) * k, rank=(2, 1, 3)[:k]) for g, n in enumerate(prompts)
    ]


@pytest.fixture
def scalar(any_kind: PreTrainedModel, words, tmp_path: Path) -> PreTrainedModel:
    save(any_kind, words, tmp_path)
    model = load_scalar(tmp_path)
    torch.nn.init.normal_(model.score.weight)
    return model


def rows(batch: Batch, x_BT: Tensor) -> Tensor:
    """(N, L): each completion's trained tokens, whatever the layout."""
    index_NL, mask_NL = by_completion(batch)
    return torch.where(mask_NL, x_BT.flatten()[index_NL], 0.0)


def what(model: PreTrainedModel, batch: Batch, name: str) -> Tensor:
    if name == "logprobs":
        return rows(batch, predict_tokens(model, batch).need("logprobs_BT"))
    return rows(batch, predict_values(model, batch)) if name == "values" else predict_scores(model, batch)


def gradients(model: PreTrainedModel, out: Tensor) -> list[Tensor]:
    model.zero_grad()
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).mean().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", ["logprobs", "values", "scores"])
def test_shared_equals_padded_in_values_and_gradients(any_kind: PreTrainedModel, scalar: PreTrainedModel, name: str):
    model = any_kind if name == "logprobs" else scalar
    found, slopes = [], []
    for layout in ({"shared": False}, {}, {"row_tokens": 1000}):
        out = what(model, collate(forest(), **layout), name)
        found.append(out.detach())
        slopes.append(gradients(model, out))
    assert found[0].abs().max() > 0.1
    for other, slope in zip(found[1:], slopes[1:]):
        assert torch.allclose(other, found[0], atol=1e-5)
        assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-4) for a, b in zip(slope, slopes[0], strict=True))


@pytest.mark.parametrize("shared", [True, False])
@torch.no_grad()
def test_what_stands_in_padding_is_never_read(any_kind: PreTrainedModel, scalar: PreTrainedModel, shared: bool):
    batch = collate(forest((1, 30, 4)), shared=shared)
    padding = (batch.completion_BT >= 0).flip(1).cumsum(1).flip(1) == 0  # nothing of a completion stands further on
    assert padding.sum() > 3
    filled = batch.replace(tokens_BT=torch.where(padding, 77, batch.tokens_BT))
    for model, name in ((any_kind, "logprobs"), (scalar, "values"), (scalar, "scores")):
        assert torch.allclose(what(model, batch, name), what(model, filled, name), atol=1e-6)


@torch.no_grad()
def test_a_group_is_blind_to_its_neighbours(any_kind: PreTrainedModel, scalar: PreTrainedModel):
    trees = forest()
    for model, name in ((any_kind, "logprobs"), (scalar, "scores")):
        alone = what(model, collate(trees[:1]), name)
        beside = what(model, collate([*forest((40,)), *trees[1:], trees[0]], row_tokens=1000), name)[-3:]
        assert torch.allclose(beside[:, : alone.shape[1]] if beside.ndim > 1 else beside, alone, atol=1e-5)


@torch.no_grad()
def test_a_completion_is_blind_to_its_siblings(any_kind: PreTrainedModel):
    tree = forest((5,))[0]
    together = what(any_kind, collate([tree]), "logprobs")
    for k in range(3):
        one = Tree("g", tree.prompt, tree.completions[k : k + 1], tree.trained[k : k + 1], (True,))
        alone = what(any_kind, collate([one]), "logprobs")[0]
        assert torch.allclose(together[k, : len(alone)], alone, atol=1e-5)


@torch.no_grad()
def test_the_prompt_is_read(any_kind: PreTrainedModel):
    """So that the tests above do not hold because nothing is read at all."""
    tree = forest((5,))[0]
    other = Tree("g", (99, *tree.prompt[1:]), tree.completions, tree.trained, tree.ended)
    changed = what(any_kind, collate([other]), "logprobs") - what(any_kind, collate([tree]), "logprobs")
    assert changed[:, 0].abs().min() > 1e-3


@pytest.mark.parametrize("shared", [True, False])
def test_completions_that_read_alike_are_computed_once_and_change_nothing(scalar: PreTrainedModel, shared: bool):
    """`twins` saves their tokens; scores, loss and gradients stay those of the full layout, in passes as well."""
    a, b, c = (5, 6, 7), (8, 9), (10,)
    groups = [((a, b, a, c, a), (1, 2, 1, 3, 1)), ((c, b, c), (2, 1, 2)), ((a, b), (1, 2))]
    trees = [
        Tree(str(i), (1, 2, 3 + i), cs, tuple((True,) * len(x) for x in cs), (True,) * len(cs), rank=ranks)
        for i, (cs, ranks) in enumerate(groups)
    ]
    found = []
    for twins in (False, True):
        batch = collate(trees, 12, shared, twins)
        scalar.zero_grad()
        rows = [take_rows(batch, piece) for piece in passes(batch, 12)]
        assert len(rows) > 1
        losses = [KWise().loss(r, Prediction(scores_N=predict_scores(scalar, r)))[0] for r in rows]
        loss = sum(losses[1:], losses[0])
        loss.total.backward()
        gradient = torch.cat([p.grad.flatten() for p in scalar.parameters() if p.grad is not None])
        found.append((int((batch.completion_BT >= 0).sum()), loss.value, predict_scores(scalar, batch), gradient))
    full, less = found
    assert less[0] == full[0] - 3 - 3 - 1  # a twice and c once are not laid out again
    assert less[1] == pytest.approx(full[1], rel=1e-6, abs=1e-6)
    assert torch.allclose(less[2], full[2], atol=1e-6)
    assert torch.allclose(less[3], full[3], atol=1e-5 * float(full[3].abs().max()))
