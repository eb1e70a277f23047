"""A round of experience, piece by piece: who is asked, what is filled, and numbers of a round by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tropism.algorithms.ppo import PPO
from tropism.engines.local import LocalEngine
from tropism.engines.scripted import Scripted
from tropism.errors import TropismError
from tropism.models.folder import load_scalar, save
from tropism.models.forward import predict_tokens, predict_values
from tropism.tensors.batch import Batch
from tropism.tensors.collate import collate
from tropism.tensors.encode import tree
from tropism.tensors.tree import Tree
from tropism.train.loop import values
from tropism.train.rollouts import annotate, critic_metrics, experience, rollouts, round_metrics
from tropism.types import Group, Judgment, Message, SamplingParams

GROUPS = [Group(f"g{n}", (Message("user", f"{n}?"),), judgments=(Judgment("earlier@1", ()),)) for n in range(3)]


@dataclasses.dataclass(frozen=True)
class Longest:
    """A longer answer is better; it will not speak of the empty one."""

    forgets: int = 0

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        scores = [tuple(float(len(c.text)) or None for c in g.completions) for g in groups]
        return [Judgment("longest@1", s[: len(s) - self.forgets]) for s in scores]


def test_rollouts_answer_and_judge_each_group():
    engine = Scripted({"0?": ("a", "bb"), "1?": ("ccc", ""), "2?": ("d",)})
    found = rollouts(GROUPS, engine, Longest(), SamplingParams(n=2))
    assert [[c.text for c in g.completions] for g in found] == [["a", "bb"], ["ccc", ""], ["d", "d"]]
    assert [g.judgments[-1].scores for g in found] == [(1, 2), (3, None), (1, 1)]
    assert [g.id for g in found] == ["g0", "g1", "g2"]


def test_a_judge_that_leaves_out_a_score_is_named():
    engine = Scripted({f"{n}?": ("a",) for n in range(3)})
    with pytest.raises(TropismError, match=r"Longest .* one score for each completion"):
        rollouts(GROUPS, engine, Longest(forgets=1), SamplingParams(n=2))


def test_experience_carries_the_scores_and_what_was_sampled(llama: PreTrainedModel, words):
    engine = LocalEngine(llama, words)
    groups = rollouts(GROUPS, engine, Longest(), SamplingParams(n=2, max_tokens=5))
    scores = (0.5, None, -1.0, 2.0, None, None)
    groups = [
        dataclasses.replace(g, judgments=(Judgment("j@1", scores[2 * i : 2 * i + 2]),)) for i, g in enumerate(groups)
    ]
    batch = collate(experience(groups, words, 128))
    assert batch.need("scored_N").tolist() == [s is not None for s in scores]
    assert batch.need("reward_N").tolist() == [s or 0.0 for s in scores]
    for n, completion in enumerate(c for g in groups for c in g.completions):
        columns = batch.completion_BT == n
        assert tuple(batch.tokens_BT[columns].tolist()) == completion.tokens
        assert batch.need("old_logprobs_BT")[columns].tolist() == pytest.approx(list(completion.logprobs or ()))
        assert bool(batch.ended_N[n]) == (completion.finish_reason == "stop")
    with pytest.raises(TropismError, match="context is 4"):
        experience(groups, words, 4)


@pytest.mark.parametrize("pass_tokens", [0, 1])
def test_annotate_fills_what_is_needed_and_only_that(
    llama: PreTrainedModel, make_model, words, tmp_path: Path, pass_tokens: int
):
    save(llama, words, tmp_path)
    critic, reference = load_scalar(tmp_path), make_model(seed=1)
    torch.nn.init.normal_(critic.score.weight)
    sampling = SamplingParams(n=2, max_tokens=5, temperature=0.7)
    groups = rollouts(GROUPS, LocalEngine(llama, words), Longest(), sampling)
    batch = collate([tree(g, words, 128) for g in groups])
    filled = annotate(batch, PPO.needs, reference, critic, sampling, pass_tokens)
    assert torch.allclose(
        filled.need("ref_logprobs_BT"), predict_tokens(reference, batch, sampling).need("logprobs_BT"), atol=1e-5
    )
    assert torch.allclose(filled.need("values_BT"), predict_values(critic, batch), atol=1e-5)
    assert not filled.need("values_BT").requires_grad
    assert filled.old_logprobs_BT is batch.old_logprobs_BT
    bare = annotate(batch, ("old_logprobs_BT",), reference, critic, sampling, pass_tokens)
    assert bare.ref_logprobs_BT is None
    assert bare.values_BT is None


def by_hand() -> Batch:
    """Three completions of 2, 1 and 3 tokens: scored 1, not scored, scored 4 and cut."""
    item = Tree(
        id="g",
        prompt=(1,),
        completions=((2, 3), (4,), (5, 6, 7)),
        trained=((True, True), (True,), (True, True, True)),
        ended=(True, True, False),
        logprobs=((-1.0, -1.0), (-9.0,), (-1.0, -1.0, -1.0)),
        reward=(1.0, None, 4.0),
    )
    ref = [[0.0, -1.5, -1.5, 0.0, -0.5, -0.5, -1.0]]  # the first is dearer by 1 nat, the last cheaper by 1
    return collate([item]).replace(ref_logprobs_BT=torch.tensor(ref))


def test_numbers_of_a_round_by_hand():
    metrics = {name: ratio.value for name, ratio in round_metrics(by_hand()).items()}
    assert metrics == pytest.approx(
        {"reward": 2.5, "not_scored": 1 / 3, "stop_rate": 2 / 3, "tokens": 2.0, "kl": (1 - 9 - 1) / 3}
    )


def test_nothing_scored_is_nothing_measured():
    batch = by_hand().replace(values_BT=torch.zeros(1, 7), scored_N=torch.zeros(3, dtype=torch.bool))
    metrics = round_metrics(batch) | critic_metrics(PPO().credit(batch))
    assert metrics["not_scored"].value == 1.0
    assert all(math.isnan(metrics[name].value) for name in ("reward", "explained_variance"))
    assert values(metrics).keys() == {"not_scored", "stop_rate", "tokens", "kl"}  # no NaN in a log


@pytest.mark.parametrize(
    ("foreseen", "explained"),
    [
        ([1.0, 2.0, 3.0, 4.0], 1.0),
        ([6.0, 7.0, 8.0, 9.0], 1.0),  # an offset explains the variance all the same
        ([2.5, 2.5, 2.5, 2.5], 0.0),
        ([4.0, 3.0, 2.0, 1.0], 1 - 20 / 5),  # worse than saying nothing
    ],
)
def test_explained_variance_by_hand(foreseen: list[float], explained: float):
    item = Tree("g", (1,), ((2, 3, 4, 5),), ((True,) * 4,), (True,), reward=(1.0,))
    batch = collate([item, dataclasses.replace(item, prompt=(1, 1))], 100)
    batch = batch.replace(
        loss_mask_BT=batch.loss_mask_BT & (batch.completion_BT == batch.completion_BT[0, 2]),  # the rest is rubbish
        values_BT=torch.full(batch.tokens_BT.shape, 77.0),
        returns_BT=torch.full(batch.tokens_BT.shape, -55.0),
    )
    batch.need("values_BT")[batch.loss_mask_BT] = torch.tensor(foreseen)
    batch.need("returns_BT")[batch.loss_mask_BT] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert critic_metrics(batch)["explained_variance"].value == pytest.approx(explained)
