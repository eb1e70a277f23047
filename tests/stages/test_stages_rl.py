"""The rl stage alone, with a judge of one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tropism.algorithms.ppo import PPO
from tropism.formats.phrasebook import Phrasebook
from tropism.formats.prompts import Prompts
from tropism.judges.verifier import Verifier
from tropism.stages.rl import RL
from tropism.store.run import Run, done, read_metrics
from tropism.train.optim import Optim
from tropism.types import Group, Judgment, SamplingParams, TropismError

ASKED = Phrasebook("prompts", count=16)


def letters(completion: str) -> float:
    """More letters, more reward."""
    return min(sum("a" <= sign <= "z" for sign in completion) / 8, 2.0)


def rl(policy: str, **settings: Any) -> RL:
    small = {
        "prompts": ASKED,
        "judge": Verifier(letters),
        "algorithm": PPO(missing_stop=0.0),
        "rounds": 3,
        "prompts_per_round": 8,
        "sampling": SamplingParams(n=4, max_tokens=8),
        "optim": Optim(lr=1e-2, schedule="constant", warmup=0.0),
    }
    return RL(policy=policy, **{**small, **settings})


def test_the_reward_rises(run: Run, model_folder: str) -> None:
    out = run(rl(model_folder, rounds=15, truth=Verifier(lambda completion: float(len(completion)))))
    rounds = read_metrics(out.parent)
    assert [r["round"] for r in rounds] == list(range(1, 16))
    first, last = rounds[0]["reward"], sum(r["reward"] for r in rounds[-3:]) / 3
    assert last > first + 0.5
    assert rounds[0]["kl"] == pytest.approx(0.0, abs=1e-4) and rounds[-1]["kl"] > 0.05  # nats, to where it began
    wanted = {
        "stop_rate",
        "tokens",
        "not_scored",
        "explained_variance",
        "clip_fraction",
        "entropy",
        "kl_to_old",
        "truth",
    }
    assert wanted <= rounds[0].keys() and all(r["truth"] > 0 for r in rounds)
    assert done(out.parent)["facts"] == {"rounds": 15, "completions": 15 * 8 * 4}  # type: ignore[index]
    before, after = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in (model_folder, out))
    assert any(not torch.equal(before[k], after[k]) for k in before)


def test_while_the_critic_warms_up_the_policy_rests(run: Run, model_folder: str) -> None:
    out = run(rl(model_folder, critic_warmup=3))
    before, after = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in (model_folder, out))
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(r["kl"] == pytest.approx(0.0, abs=1e-4) for r in read_metrics(out.parent))
    losses = [r["value_loss"] for r in read_metrics(out.parent)]
    assert losses[0] > 0 and len(set(losses)) == 3


def test_the_adaptive_kl_coefficient_follows_its_rule(run: Run, model_folder: str) -> None:
    algorithm = PPO(kl=0.05, kl_target=0.5, kl_horizon=100)
    out = run(rl(model_folder, algorithm=algorithm, rounds=5))
    coefficient = 0.05
    for r in read_metrics(
        out.parent
    ):  # arXiv 1909.08593, section 2.2: n completions of a horizon, error clipped to 0.2
        coefficient *= 1 + min(max(r["kl"] / 0.5 - 1, -0.2), 0.2) * 32 / 100
        assert r["kl_coefficient"] == pytest.approx(coefficient, rel=1e-9)
    assert coefficient != 0.05


def test_epochs_and_minibatches_are_updates(run: Run, model_folder: str) -> None:
    whole = run(rl(model_folder, rounds=1), "one")
    more = run(rl(model_folder, rounds=1, epochs=2, minibatches=2), "more")
    first, second = (read_metrics(out.parent)[0] for out in (whole, more))
    assert first["kl_to_old"] == pytest.approx(0.0, abs=1e-9)  # the only update is looked at before it is made
    assert second["kl_to_old"] > 1e-6


def test_a_completion_without_a_score_leaves_the_batch(run: Run, model_folder: str) -> None:
    judge = Verifier(lambda completion: None if len(completion) % 2 else letters(completion))
    out = run(rl(model_folder, judge=judge, rounds=2))
    assert all(0 < r["not_scored"] < 1 and r["loss"] == r["loss"] for r in read_metrics(out.parent))


def test_a_judge_that_scores_nothing_is_refused(run: Run, model_folder: str) -> None:
    with pytest.raises(TropismError, match="the judge scored no completion of round 1: name a judge that can"):
        run(rl(model_folder, judge=Verifier(lambda completion: None)))


def test_an_infinite_reward_names_step_groups_and_checkpoint(tmp_path: Path, model_folder: str) -> None:
    calls = []

    def late(completion: str) -> float:
        calls.append(completion)
        return float("inf") if len(calls) == 2 * 32 + 1 else letters(completion)  # the first of the third round

    with Run(tmp_path, checkpoint_s=0) as run, pytest.raises(TropismError) as caught:
        run(rl(model_folder, judge=Verifier(late)), "ppo")
    assert "the loss is not finite at step 3, in a batch of the groups phrasebook/prompts/0/" in str(caught.value)
    checkpoint = next(tmp_path.glob("ppo-*/checkpoints/00000002"))
    assert f"the last good checkpoint is {checkpoint}" in str(caught.value)


def test_greedy_sampling_is_refused() -> None:
    with pytest.raises(TropismError, match="temperature = 0 is greedy, which explores nothing"):
        rl("x/y", sampling=SamplingParams(temperature=0.0))


def test_a_prompt_that_leaves_no_room_is_named(run: Run, model_folder: str) -> None:
    with pytest.raises(
        TropismError, match=r"the prompt of group prompts:2 has \d+ tokens, and with sampling.max_tokens"
    ):
        run(rl(model_folder, prompts=Prompts(prompts=("a", "x" * 400))))


@dataclass(frozen=True)
class Careless:
    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        return [Judgment("careless", (1.0,) * len(g.completions)) for g in groups[1:]]


@pytest.mark.parametrize("role", ["judge", "truth"])
def test_a_judge_that_forgets_groups_is_refused(run: Run, model_folder: str, role: str) -> None:
    with pytest.raises(TropismError, match="the judge Careless did not give each of 8 groups a judgment"):
        run(rl(model_folder, **{role: Careless()}))
