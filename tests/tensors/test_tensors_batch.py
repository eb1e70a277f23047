"""The forest of tokens: its layout by hand, its mask by walking parents, and sums that no layout changes."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import pytest
import torch

from tropism.errors import TropismError
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.collate import collate, pack
from tropism.tensors.index import by_completion, by_group, length_N, mean_so_far, sum_by_completion, tree_mask
from tropism.tensors.ratio import Ratio, total
from tropism.tensors.rows import passes, take_rows
from tropism.tensors.tree import Tree


def tree(id: str, prompt: int, *lengths: int, first: int = 10, **more) -> Tree:
    """Tokens are numbered from `first` on, the prompt's first."""
    numbers = iter(range(first, first + prompt + sum(lengths)))
    return Tree(
        id=id,
        prompt=tuple(next(numbers) for _ in range(prompt)),
        completions=tuple(tuple(next(numbers) for _ in range(n)) for n in lengths),
        trained=tuple((True,) * n for n in lengths),
        ended=(True,) * len(lengths),
        **more,
    )


def forest(seed: int, groups: int = 7) -> list[Tree]:
    """Random trees, some with one completion, tokens forced in between; every token id is its own."""
    rng = random.Random(seed)
    made, first = [], 1
    for g in range(groups):
        lengths = [rng.randint(1, 5) for _ in range(rng.randint(1, 4))]
        item = tree(f"g{g}", rng.randint(1, 6), *lengths, first=first)
        first += item.size
        made.append(
            dataclasses.replace(
                item,
                trained=tuple(tuple(rng.random() < 0.7 for _ in c) for c in item.completions),
                logprobs=tuple(tuple(-rng.random() for _ in c) for c in item.completions),
                reward=tuple(None if rng.random() < 0.2 else rng.random() for _ in lengths),
                rank=tuple(rng.randint(0, 3) for _ in lengths),
            )
        )
    return made


def ancestors(batch: Batch, row: int, column: int) -> list[int]:
    """Columns from the token to its root, by following `parent`."""
    path = [column]
    while (parent := int(batch.parent_BT[row, path[-1]])) >= 0:
        path.append(parent)
    return path


def test_layout_of_one_group_by_hand():
    batch = collate([tree("g", 3, 2, 1, logprobs=((-0.1, -0.2), (-0.3,)), rank=(1, 0), reward=(0.5, None))])
    assert batch.tokens_BT.tolist() == [[10, 11, 12, 13, 14, 15]]
    assert batch.position_BT.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert batch.parent_BT.tolist() == [[-1, 0, 1, 2, 3, 2]]
    assert batch.completion_BT.tolist() == [[-1, -1, -1, 0, 0, 1]]
    assert batch.loss_mask_BT.tolist() == [[False, False, False, True, True, True]]
    assert batch.last_N.tolist() == [4, 5]
    assert batch.group_N.tolist() == [0, 0]
    assert batch.need("rank_N").tolist() == [1, 0]
    assert batch.need("scored_N").tolist() == [True, False]
    assert batch.need("reward_N").tolist() == [0.5, 0.0]
    assert torch.allclose(batch.need("old_logprobs_BT"), torch.tensor([[0, 0, 0, -0.1, -0.2, -0.3]]))


def test_padded_layout_by_hand():
    batch = collate([tree("g", 2, 2, 1)], shared=False)
    assert batch.tokens_BT.tolist() == [[10, 11, 12, 13], [10, 11, 14, 0]]
    assert batch.parent_BT.tolist() == [[-1, 0, 1, 2], [-1, 0, 1, -1]]
    assert batch.completion_BT.tolist() == [[-1, -1, 0, 0], [-1, -1, 1, -1]]
    assert batch.last_N.tolist() == [3, 6]


@pytest.mark.parametrize(("shared", "row_tokens"), [(True, 0), (True, 40), (True, 10**6), (False, 0)])
def test_every_path_from_a_last_token_spells_prompt_and_completion(shared: bool, row_tokens: int):
    trees = forest(1)
    batch = collate(trees, row_tokens, shared)
    width = batch.tokens_BT.shape[1]
    answers = [(t, c) for t in trees for c in t.completions]
    for n, (item, answer) in enumerate(answers):
        row, column = divmod(int(batch.last_N[n]), width)
        path = ancestors(batch, row, column)[::-1]
        assert tuple(batch.tokens_BT[row, path].tolist()) == item.prompt + answer
        assert batch.position_BT[row, path].tolist() == list(range(len(path)))
        assert batch.ids[int(batch.group_N[n])] == item.id


@pytest.mark.parametrize("row_tokens", [0, 40, 10**6])
def test_tree_mask_is_the_ancestors_and_nothing_else(row_tokens: int):
    batch = collate(forest(2), row_tokens)
    mask = tree_mask(batch)
    rows, width = batch.tokens_BT.shape
    assert mask.shape == (rows, 1, width, width)
    for row in range(rows):
        for column in range(width):
            assert mask[row, 0, column].nonzero()[:, 0].tolist() == sorted(ancestors(batch, row, column))


def test_padding_looks_at_itself_only():
    batch = collate([tree("a", 1, 4), tree("b", 1, 2)])
    row = batch.tokens_BT.tolist().index([10, 11, 12, 0, 0])
    assert tree_mask(batch)[row, 0, 3:].tolist() == [
        [False, False, False, True, False],
        [False, False, False, False, True],
    ]


def test_what_nothing_predicts_is_not_trained():
    batch = collate([tree("no prompt", 0, 3)])
    assert batch.loss_mask_BT.tolist() == [[False, True, True]]


@pytest.mark.parametrize("shared", [True, False])
def test_an_empty_completion_is_read_at_the_end_of_its_prompt(shared: bool):
    batch = collate([tree("g", 2, 3, 0, 1)], shared=shared)
    assert batch.tokens_BT.flatten()[batch.last_N].tolist() == [14, 11, 15]


@pytest.mark.parametrize("row_tokens", [0, 17, 50])
def test_pack_holds_each_index_once_in_balanced_rows(row_tokens: int):
    sizes = [random.Random(3).randint(1, 20) for _ in range(60)]
    rows = pack(sizes, row_tokens)
    assert sorted(i for row in rows for i in row) == list(range(60))
    fill = [sum(sizes[i] for i in row) for row in rows]
    assert len(rows) == math.ceil(sum(sizes) / max(row_tokens, max(sizes)))
    assert max(fill) - min(fill) <= max(sizes)


def test_sums_do_not_depend_on_the_layout():
    trees = forest(4)
    value = {token: math.sin(token) for t in trees for c in t.completions for token in c}
    expected = [
        sum(value[x] for x, keep in zip(c, kept) if keep) for t in trees for c, kept in zip(t.completions, t.trained)
    ]
    for shared, row_tokens in ((True, 0), (True, 60), (False, 0)):
        batch = collate(trees, row_tokens, shared)
        x_BT = torch.sin(batch.tokens_BT.double())
        assert torch.allclose(sum_by_completion(x_BT, batch), torch.tensor(expected, dtype=torch.float64))
        counts = [sum(kept) for t in trees for kept in t.trained]
        assert length_N(batch).tolist() == counts


@pytest.mark.parametrize("shared", [True, False])
def test_by_completion_lists_trained_tokens_in_order(shared: bool):
    trees = forest(5)
    batch = collate(trees, 30, shared)
    index_NL, mask_NL = by_completion(batch)
    rows = [batch.tokens_BT.flatten()[i[m]].tolist() for i, m in zip(index_NL, mask_NL)]
    expected = [[x for x, keep in zip(c, kept) if keep] for t in trees for c, kept in zip(t.completions, t.trained)]
    assert rows == expected
    assert mask_NL.sum() == batch.loss_mask_BT.sum()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("row_tokens", [0, 30])
def test_the_mean_so_far_is_that_of_the_trained_ancestors_in_the_completion(shared: bool, row_tokens: int):
    batch = collate(forest(5), row_tokens, shared)
    x_BT = torch.randn(batch.tokens_BT.shape, generator=torch.Generator().manual_seed(0))
    found = mean_so_far(x_BT, batch)
    for row, column in itertools.product(*map(range, x_BT.shape)):
        own = [c for c in ancestors(batch, row, column) if batch.completion_BT[row, c] >= 0]
        kept = [x_BT[row, c].item() for c in own if batch.loss_mask_BT[row, c]]
        mean = sum(kept) / len(kept) if kept and batch.completion_BT[row, column] >= 0 else 0.0
        assert found[row, column].item() == pytest.approx(mean, abs=1e-5)


def test_by_group_by_hand():
    x_GK, mask_GK = by_group(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0, 0, 0, 1]))
    assert x_GK.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert mask_GK.tolist() == [[True, True, True], [True, False, False]]


@pytest.mark.parametrize("shared", [True, False])
def test_rows_taken_apart_hold_what_the_batch_held(shared: bool):
    trees = forest(6)
    batch = collate(trees, 25, shared)
    seen: dict[int, tuple] = {}
    for row in range(len(batch.tokens_BT)):
        piece = take_rows(batch, [row])
        index_NL, mask_NL = by_completion(piece)
        for n in range(piece.n):
            trained = piece.tokens_BT.flatten()[index_NL[n][mask_NL[n]]].tolist()
            last = int(piece.tokens_BT.flatten()[piece.last_N[n]])
            score = float(piece.need("reward_N")[n]) if piece.need("scored_N")[n] else None
            seen[last] = (piece.ids[int(piece.group_N[n])], trained, score, int(piece.need("rank_N")[n]))
    expected = {}
    for item in trees:
        for k, (answer, kept) in enumerate(zip(item.completions, item.trained)):
            score = None if item.reward[k] is None else pytest.approx(item.reward[k])
            expected[answer[-1]] = (item.id, [x for x, keep in zip(answer, kept) if keep], score, item.rank[k])
    assert seen == expected


def test_all_rows_in_another_order_keep_each_completion_with_its_tokens():
    batch = collate(forest(7), 25)
    rows = list(range(len(batch.tokens_BT)))[::-1]
    turned = take_rows(batch, rows)
    assert turned.tokens_BT.tolist() == batch.tokens_BT.flip(0).tolist()
    assert turned.completion_BT.tolist() == batch.completion_BT.flip(0).tolist()
    assert turned.tokens_BT.flatten()[turned.last_N].tolist() == batch.tokens_BT.flatten()[batch.last_N].tolist()
    assert turned.ids == batch.ids


def test_take_rows_keeps_a_completion_without_tokens():
    batch = collate([tree("a", 3, 2, 0), tree("b", 3, 2)])
    row = int((batch.completion_BT == 0).any(1).nonzero())
    assert take_rows(batch, [row]).n == 2
    assert take_rows(batch, [1 - row]).n == 1


def test_passes_bound_the_tokens_and_never_cut_a_group():
    batch = collate([tree("a", 2, 3, 3), tree("b", 2, 3, 3, 3), tree("c", 2, 3)], shared=False)  # rows of 5 tokens
    assert passes(batch, 0) == [[0, 1, 2, 3, 4, 5]]
    assert passes(batch, 15) == [[0, 1], [2, 3, 4], [5]]
    assert passes(batch, 20) == [[0, 1], [2, 3, 4, 5]]
    assert passes(batch, 1) == [[0, 1], [2, 3, 4], [5]]
    shared = collate([tree(id, 2, 3) for id in "abcd"])
    assert passes(shared, 10) == [[0, 1], [2, 3]]
    assert passes(shared, 1) == [[0], [1], [2], [3]]


def test_passes_never_cut_a_group_whose_completions_read_alike():
    """Group a is (x, y, x): the third completion ends in the row of the first, which still begins the group."""
    a = dataclasses.replace(tree("a", 2, 3, 3, 3), completions=((7, 8, 9), (6, 8, 9), (7, 8, 9)))
    batch = collate([a, tree("b", 2, 3, 3)], shared=False, twins=True)
    assert len(batch.tokens_BT) == 4
    assert passes(batch, 1) == [[0, 1], [2, 3]]
    assert [take_rows(batch, rows).n for rows in passes(batch, 1)] == [3, 2]


def test_ratios_add_totals_and_counts_and_divide_once():
    parts = [(6.0, 2), (1.0, 8), (0.0, 0)]
    ratios = [Ratio(torch.tensor(t), torch.tensor(c)) for t, c in parts]
    assert (ratios[0] + ratios[1] + ratios[2]).value == pytest.approx(0.7)  # not the mean of 3, 1/8 and NaN
    assert math.isnan(ratios[2].value)
    summed = total([{"a": ratios[0]}, {"a": ratios[1], "b": ratios[2]}])
    assert summed["a"].value == pytest.approx(0.7)
    assert math.isnan(summed["b"].value)


def test_missing_fields_say_who_fills_them():
    batch = collate([tree("g", 2, 3)])
    for name, who in (("reward_N", "judge"), ("old_logprobs_BT", "engine"), ("advantages_BT", "credit")):
        with pytest.raises(TropismError, match=who):
            batch.need(name)
    with pytest.raises(TropismError, match="predicts"):
        Prediction().need("values_BT")
    with pytest.raises(TropismError, match="at least one group"):
        collate([])


def test_one_unknown_reward_list_leaves_the_field_missing():
    batch = collate([tree("a", 1, 1, reward=(1.0,)), tree("b", 1, 1)])
    assert batch.reward_N is None
    assert batch.scored_N is None
