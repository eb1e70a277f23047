"""Rewards for steps inside an answer: from characters to tokens, and what each algorithm makes of them, by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tropism.algorithms.grpo import GRPO
from tropism.algorithms.rloo import RLOO
from tropism.tensors.batch import Batch
from tropism.tensors.collate import collate
from tropism.tensors.credit import by_critic, ranked, steps_ahead, total_N
from tropism.tensors.encode import pick, stepped, tree
from tropism.tensors.rows import take_rows
from tropism.tensors.tree import Tree
from tropism.train.rollouts import round_metrics
from tropism.train.shaping import Moments, Shaping
from tropism.types import Completion, Group, Judgment, Message, Step

KEPT = ((True,) * 3, (True,) * 2, (True,) * 2)
THREE = Tree(  # steps worth 1 and 0 in the first answer, 5 in the second, none in the third
    "g",
    (9,),
    ((1, 2, 3), (4, 5), (6, 7)),
    KEPT,
    (True,) * 3,
    tuple((-1.0,) * len(k) for k in KEPT),
    (1.0, 2.0, 3.0),
    steps=(((0, 1.0), (2, 0.0)), ((1, 5.0),), ()),
)


def batch_of(*trees: Tree, shared: bool = True) -> Batch:
    batch = collate(trees, shared=shared)
    return batch.replace(ref_logprobs_BT=torch.full(batch.tokens_BT.shape, -1.0))


def rows(x_BT: Tensor, batch: Batch) -> list[list[float]]:
    """The numbers of each completion's tokens, in order."""
    return [x_BT[batch.completion_BT == n].tolist() for n in range(batch.n)]


def test_generalised_advantages_with_a_step_in_the_middle() -> None:
    one = Tree("g", (9,), ((1, 2, 3),), ((True,) * 3,), (True,), reward=(1.0,), steps=(((1, 0.5),),))
    batch = collate([one])
    batch = batch.replace(values_BT=torch.tensor([[0.0, 0.1, 0.2, 0.3]]))
    advantages, returns = by_critic(batch, 0.0, 1.0, 1.0)
    assert rows(returns, batch)[0] == pytest.approx([1.5, 1.5, 1.0])
    assert rows(advantages, batch)[0] == pytest.approx([1.4, 1.3, 0.7])
    advantages, _ = by_critic(batch, 0.0, 0.9, 0.5)
    last = 1 - 0.3
    middle = 0.5 + 0.9 * 0.3 - 0.2 + 0.45 * last
    first = 0.9 * 0.2 - 0.1 + 0.45 * middle
    assert rows(advantages, batch)[0] == pytest.approx([first, middle, last])


@pytest.mark.parametrize("shared", [True, False])
def test_steps_against_those_of_the_group(shared: bool) -> None:
    """The mean of 1, 0 and 5 is 2, so they are worth -1, -2 and 3; a token counts those that end at it or later."""
    batch = batch_of(THREE, shared=shared)
    assert rows(steps_ahead(batch), batch) == [[-3.0, -2.0, -2.0], [3.0, 3.0], [0.0, 0.0]]
    std = math.sqrt((1 + 4 + 9) / 2) + 1e-4
    assert rows(steps_ahead(batch, std=True), batch)[0] == pytest.approx([-3 / std, -2 / std, -2 / std])


def test_grpo_adds_them_to_the_advantage_of_the_outcome() -> None:
    """The outcomes 1, 2, 3 are worth -1, 0, 1."""
    batch = GRPO(kl=0.0).credit(batch_of(THREE))
    assert rows(batch.need("advantages_BT"), batch) == [[-4.0, -3.0, -3.0], [3.0, 3.0], [1.0, 1.0]]


def test_ratios_of_whole_completions_add_them_to_the_score() -> None:
    """GSPO: worth 2, 7 and 3, whose mean is 4. Equal sums teach nothing, wherever in the answer they stand."""
    algorithm = GRPO(kl=0.0, ratio="completion")
    batch = algorithm.credit(batch_of(THREE))
    assert rows(batch.need("advantages_BT"), batch) == [[-2.0] * 3, [3.0] * 2, [-1.0] * 2]
    equal = dataclasses.replace(THREE, reward=(1.0, 1.0, 2.0), steps=(((0, 1.0),), ((1, 1.0),), ()))
    assert algorithm.teaches(batch_of(equal)).tolist() == [False]
    assert GRPO(kl=0.0).teaches(batch_of(equal)).tolist() == [True]


def test_rloo_takes_the_whole_answer_as_one_action() -> None:
    """Worth 1 + 1, 2 + 5 and 3: against the mean of the other two -3, 4.5 and -1.5."""
    batch = RLOO(kl=0.0).credit(batch_of(THREE))
    assert total_N(batch).tolist() == [2.0, 7.0, 3.0]
    assert rows(batch.need("advantages_BT"), batch) == [[-3.0] * 3, [4.5] * 2, [-1.5] * 2]
    assert ranked(batch).need("rank_N").tolist() == [3, 1, 2]


def test_steps_alone_teach_and_equal_steps_do_not() -> None:
    flat = dataclasses.replace(THREE, reward=(1.0, 1.0, 1.0))
    worth = [0.3] * 3  # whose mean in single precision is not 0.3
    alike = dataclasses.replace(flat, steps=tuple(((0, w),) for w in worth))
    none = dataclasses.replace(flat, steps=None)
    assert GRPO().teaches(batch_of(THREE, flat, alike)).tolist() == [True, True, False]
    assert GRPO().teaches(batch_of(none, flat)).tolist() == [False, True]
    assert GRPO().teaches(batch_of(none)).tolist() == [False]


def test_an_answer_without_a_score_is_out_of_the_mean() -> None:
    batch = GRPO(kl=0.0).credit(batch_of(dataclasses.replace(THREE, reward=(1.0, None, 3.0))))
    # the mean of 1 and 0 is 0.5: worth 0.5 and -0.5; the outcomes are worth -1 and 1
    assert rows(batch.need("advantages_BT"), batch)[0] == [-1.0, -1.5, -1.5]
    assert not batch.loss_mask_BT[batch.completion_BT == 1].any()


def test_they_travel_with_rows_and_picked_completions() -> None:
    other = dataclasses.replace(THREE, id="h", steps=None)
    batch = batch_of(other, THREE, shared=False)
    assert rows(take_rows(batch, [3, 4, 5]).need("step_reward_BT"), take_rows(batch, [3, 4, 5]))[1] == [0.0, 5.0]
    assert pick(THREE, [1]).steps == (((1, 5.0),),)
    assert collate([other]).step_BT is None and collate([other]).step_reward_BT is None


def test_a_round_shows_them_and_shaping_scales_them() -> None:
    batch = batch_of(THREE)
    assert round_metrics(batch)["step_reward"].value == pytest.approx(2.0)
    assert "step_reward" not in round_metrics(batch_of(dataclasses.replace(THREE, steps=None)))
    seen = Moments().add([0.0, 4.0])  # standard deviation 2
    shaped = Shaping(scale=True, clip=1.0, missing_stop=0.0)(batch, seen)
    assert rows(shaped.need("step_reward_BT"), shaped)[1] == [0.0, 2.5] and shaped.need("reward_N").max() == 1.0


# --- from characters to tokens ----------------------------------------------------------------------------------------

TEXT = "7 дней, 12 days ок"


def placed(words: PreTrainedTokenizerFast, ends: list[int], sampled: Any = None) -> tuple[Tree, Tree]:
    tokens = (*words.encode(TEXT, add_special_tokens=False), words.eos_token_id)
    answer = Completion(TEXT, tokens, sampled or (True,) * len(tokens), (-1.0,) * len(tokens))
    steps = (tuple(Step(end, float(end)) for end in ends), None)
    group = Group("g", (Message("user", "?"),), (answer, answer), (Judgment("j", (0.0, 0.0), steps=steps),))
    found = tree(group, words, 10_000)
    return found, stepped(found, group, words)


def test_a_step_ends_with_the_token_whose_bytes_complete_it(words: PreTrainedTokenizerFast) -> None:
    """Counted in bytes, of which a byte-level token has as many as its spelling has signs."""
    found, said = placed(words, list(range(1, len(TEXT) + 1)))
    lengths = [len(t) for t in words.convert_ids_to_tokens(list(found.completions[0][:-1]))]
    assert sum(lengths) == len(TEXT.encode()) and said.steps is not None and said.steps[1] == ()
    for at, worth in said.steps[0]:
        size = len(TEXT[: int(worth)].encode())
        assert sum(lengths[:at]) < size <= sum(lengths[: at + 1])
    assert len({at for at, _ in said.steps[0]}) > 5


def test_a_step_that_ends_in_what_was_forced_is_on_the_last_choice_before(words: PreTrainedTokenizerFast) -> None:
    found, _ = placed(words, [1])
    count = len(found.completions[0])
    sampled = tuple(i in (1, 2, count - 1) for i in range(count))
    _, said = placed(words, [1, len(TEXT)], sampled)
    assert said.steps is not None
    assert said.steps[0] == ((1, 1.0), (2, float(len(TEXT))))  # before the first choice there is none
