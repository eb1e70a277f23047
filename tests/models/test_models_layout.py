"""Which layout a batch takes: the one of fewer multiply-adds, or the one that is asked for."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from tropism.errors import TropismError
from tropism.models.halves import backbone
from tropism.models.layout import CALL, cheapest, cost, layout
from tropism.models.masks import states_under_mask
from tropism.models.trees import states_on_blocks
from tropism.tensors.collate import collate, shape
from tropism.tensors.tree import Tree


def group(prompt: int, k: int, answer: int, alike: bool = False) -> Tree:
    answers = tuple((9 if alike else 10 + i,) * answer for i in range(k))
    return Tree("g", (5,) * prompt, answers, ((True,) * answer,) * k, (True,) * k)


def test_the_cost_is_counted_by_hand(make_model: Callable[..., PreTrainedModel]) -> None:
    """A llama of width 32, two layers, feed-forward 96: a block's matrices and its two norms, and the last norm."""
    model = make_model("llama")
    block = 4 * 32 * 32 + 3 * 32 * 96 + 2 * 32
    linear = 2 * block + 32
    attention = 2 * 32  # layers x width: heads x head size is the width
    assert cost(model, 3 * 7, 3 * 7 * 7, 5) == 3 * 7 * linear + 3 * 7 * 7 * attention + 2 * 5 * CALL


@pytest.mark.parametrize(
    ("prompt", "k", "answer", "taken", "how"),
    [
        (200, 8, 10, "shared", states_under_mask),
        (400, 8, 100, "shared", states_on_blocks),
        (100, 4, 16, "shared", states_under_mask),
        (8, 8, 100, "padded", None),
        (12, 1, 30, "padded", None),
    ],
)
def test_by_torch_long_answers_are_computed_on_blocks(
    llama: PreTrainedModel, prompt: int, k: int, answer: int, taken: str, how: object
) -> None:
    """In millions of multiply-adds under a mask, on blocks, in padded rows: 15, 27, 77; 170, 115, 290; 7.0, 20, 17; 84, 54,
    32; 1.29, 5.5, 1.28."""
    llama.__dict__.update(_takes_blocks=True, _attends_compiled=False)
    batch = layout([group(prompt, k, answer)], llama)
    assert batch.layout == taken and (how is None or cheapest(llama, batch) is how)


@pytest.mark.parametrize(("prompt", "k", "answer"), [(200, 8, 10), (8, 8, 100), (4, 2, 2), (12, 1, 30), (0, 1, 30)])
def test_compiled_attention_runs_on_blocks_if_there_is_anything_to_share(
    llama: PreTrainedModel, prompt: int, k: int, answer: int
) -> None:
    llama.__dict__.update(_takes_blocks=True, _attends_compiled=True)
    batch = layout([group(prompt, k, answer)], llama)
    assert batch.layout == ("shared" if k > 1 else "padded")
    assert not batch.shared or cheapest(llama, batch) is states_on_blocks


@pytest.mark.parametrize(("prompt", "k", "answer", "taken"), [(200, 8, 10, "shared"), (8, 8, 100, "padded")])
def test_without_blocks_long_answers_take_rows_of_their_own(
    llama: PreTrainedModel, prompt: int, k: int, answer: int, taken: str
) -> None:
    llama.__dict__["_takes_blocks"] = False
    assert layout([group(prompt, k, answer)], llama).layout == taken


def test_a_layout_can_be_asked_for(llama: PreTrainedModel) -> None:
    trees = [group(16, 4, 200), group(100, 4, 8)]
    for force in ("shared", "padded"):
        assert layout(trees, llama, force=force).layout == force  # type: ignore[arg-type]


def test_a_model_that_takes_no_tree_mask_gets_padded_rows_and_refuses_shared_ones(llama: PreTrainedModel) -> None:
    llama.config.alibi = True  # it gets no positions, so a tree of tokens would read as a line
    trees = [group(100, 8, 4)]
    assert layout(trees, llama).layout == "padded"
    with pytest.raises(TropismError, match=r'Llama.* takes no rows .* layout = "auto"'):
        layout(trees, llama, force="shared")


def test_what_only_scores_lays_no_completion_twice_in_either_layout(llama: PreTrainedModel) -> None:
    trees = [group(3, 5, 4, alike=True)]
    for force, wide in (("shared", 3 + 4), ("padded", 3 + 4)):
        batch = layout(trees, llama, ("scores_N",), force=force)  # type: ignore[arg-type]
        assert list(batch.tokens_BT.shape) == [1, wide]
        assert batch.last_N.tolist() == [6] * 5


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("twins", [True, False])
def test_the_shape_is_known_before_the_batch_is_made(shared: bool, twins: bool) -> None:
    trees = [group(30, 4, 20), group(7, 2, 50, alike=True), group(90, 3, 1)]
    assert shape(trees, 128, shared, twins) == tuple(collate(trees, 128, shared, twins).tokens_BT.shape)


def test_the_same_choice_whatever_the_random_state_and_threads(llama: PreTrainedModel) -> None:
    trees = [group(16, 4, 40), group(60, 4, 25)]
    first = layout(trees, llama).layout
    torch.manual_seed(9)
    assert all(layout(trees, llama).layout == first for _ in range(5))


def test_the_weights_of_a_model_are_counted_once_and_the_model_is_let_go(
    make_model: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("tropism.models.layout.backbone", lambda m: asked.append(type(m)) or backbone(m))
    one, other = make_model("llama"), make_model("gpt2")
    first = [cost(one, 1, 1), cost(other, 1, 1)]
    for model in (one, other, one):
        layout([group(16, 4, 40)], model)
    assert len(asked) == 2 and [cost(one, 1, 1), cost(other, 1, 1)] == first and first[0] != first[1]
    seen = weakref.ref(one)
    del one, model
    gc.collect()
    assert seen() is None
