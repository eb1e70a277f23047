"""What a run without an evaluation says at its end, from what its stages left."""

from __future__ import annotations

from typing import Any

import pytest

from tropism.report.read import Findings, Finished
from tropism.report.summary import summary
from tropism.report.verdict import verdicts
from tropism.report.words import fixed, interval, number, percent


def stage(id: str, facts: dict[str, Any] | None = None, metrics: list[dict[str, Any]] | None = None) -> Finished:
    return Finished(id, id, 1.0, {}, facts or {}, metrics or [])


def said(*stages: Finished, planned: tuple[str, ...] = ()) -> list[str]:
    return verdicts(Findings("mine", planned or tuple(s.id for s in stages), stages, {}, {}))


def rounds(rewards: list[float], **more: float) -> list[dict[str, Any]]:
    return [{"round": i + 1, "reward": r, **more} for i, r in enumerate(rewards)]


def test_reward_kl_and_the_reward_models_accuracy_are_said() -> None:
    """Of ten rounds the first and last two: (0 + 0.2) / 2 and (0.8 + 1) / 2."""
    reward = stage("reward", {"held_out_accuracy": 0.714, "held_out_pairs": 1187})
    first, second = said(reward, stage("ppo", metrics=rounds([0, 0.2, *[0.5] * 6, 0.8, 1.0], kl=1.5)))
    assert first == "reward puts 71\u202f% of 1,187 pairs of held-out prompts in the right order."
    assert second.startswith("PPO: the reward of its samples went from 0.10 to 0.90; the KL")
    assert "ended at 1.50 nats per completion (means over 2 of 10 rounds at each end)" in second
    assert "Whether the answers are better was not measured" in second


def test_one_round_and_missing_figures() -> None:
    assert said(stage("grpo", metrics=rounds([0.3], truth=0.6))) == [
        "GRPO: the reward of its samples was 0.30 in its only round; the true quality was 0.60 in its only round."
    ]
    looks = [{"round": 0, "probe_reward": 0.1}, {"round": 1, "reward": 0.2}, {"round": 2, "reward": float("nan")}]
    assert said(stage("ppo", metrics=looks))[0].startswith("PPO: the reward of its samples was 0.20 in its only round.")
    assert said(stage("ppo", metrics=looks[:1])) == [
        "All stages are finished; the recipe compares no trained model with another."
    ]


def test_an_unfinished_run_says_so_first() -> None:
    first, second = said(stage("grpo", metrics=rounds([0.3])), planned=("grpo", "evaluation"))
    assert first.startswith("No verdict yet: 1 of 2 stages")
    assert second.startswith("GRPO:")


def test_the_terminal_says_it_too() -> None:
    rl = stage("ppo", metrics=rounds([0.3], truth=0.6))
    lines = summary(Findings("mine", ("ppo",), (rl,), {}, {})).splitlines()
    assert lines[0] == "mine: 1 s   (ppo 1 s)"
    assert lines[-1].startswith("PPO: the reward of its samples was 0.30 in its only round")


@pytest.mark.parametrize("tiny", [-0.0, -1e-9, -0.004])
def test_no_zero_has_a_minus(tiny: float) -> None:
    assert number(tiny) == "0.00"
    assert percent(tiny / 10) == "0\u202f%"
    assert fixed(tiny, 1) == "0.0"
    assert interval({"low": tiny / 10, "high": 0.1}) == "0–10\u202f%"
