"""The sentences: win, tie, loss, hacking, no truth, not finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from report_runs import figure, finish, make_run, plan, rounds

from tropism.report.read import Findings, read
from tropism.report.verdict import hacking, verdicts


def compared(**ppo: Any) -> Findings:
    """Findings of an evaluation alone: SFT with reward 0 ± 0.1, and PPO with the figures given."""
    models = {"sft": {"reward": figure(0.0, 0.1)}, "ppo": ppo}
    return Findings("first", ("evaluation",), (), {"over": "sft", "models": models}, {})


def said(folder: Path) -> str:
    (sentence,) = verdicts(read(folder))
    return sentence.replace("\u202f", " ")


def test_a_win(tmp_path: Path) -> None:
    assert said(make_run(tmp_path)) == (
        "PPO answers better than SFT: it wins 71 % of comparisons on held-out prompts (64–78 %), at 1.2 nats of KL per "
        "completion."
    )


@pytest.mark.parametrize(
    ("win", "word"),
    [
        ({"value": 0.53, "low": 0.47, "high": 0.59}, "includes"),
        ({"value": 0.55, "low": 0.5, "high": 0.6}, "touches"),
        ({"value": 0.45, "low": 0.4, "high": 0.5}, "touches"),
    ],
)
def test_a_tie(tmp_path: Path, win: Mapping[str, float], word: str) -> None:
    sentence = said(make_run(tmp_path, win=win))
    assert sentence.startswith(
        f"PPO is not significantly different from SFT: it wins {100 * win['value']:.0f} % of comparisons"
    )
    assert f"{word} one half" in sentence
    assert "better" not in sentence


def test_reward_hacking_over_the_rounds(tmp_path: Path) -> None:
    # fifths of 12 rounds on lines from 0 to 0.9 and from 0.58 to 0.3: their means stand 5.5 and 53.5 rounds of 59 in
    sentence = said(make_run(tmp_path, win=figure(0.38), truth=(0.58, 0.3)))
    assert sentence.startswith(
        "Reward hacking: from round 1 to 60 the learned reward rose from 0.08 to 0.82 while the true quality fell from "
        "0.55 to 0.33; PPO answers worse than SFT: it wins only 38 %"
    )


def test_hacking_is_said_of_a_model_that_still_wins(tmp_path: Path) -> None:
    assert said(make_run(tmp_path, truth=(0.9, 0.7))).startswith("Reward hacking: from round 1 to 60")


def test_a_worse_model_that_the_reward_prefers_is_hacking_without_any_rounds() -> None:
    (sentence,) = verdicts(compared(win_over_sft=figure(0.3), reward=figure(0.9)))
    assert sentence.startswith(
        "Reward hacking: the learned reward prefers the worse answers; PPO answers worse than SFT"
    )
    (sentence,) = verdicts(compared(win_over_sft=figure(0.3), reward=figure(-0.9)))
    assert sentence.startswith("PPO answers worse than SFT")


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (0.9, "The learned reward of PPO is higher than that of SFT (0.90 against 0.00)"),
        (
            0.05,
            "The learned rewards of PPO and SFT do not differ significantly (0.05 against 0.00): the intervals overlap",
        ),
        (-0.9, "The learned reward of PPO is lower than that of SFT (−0.90 against 0.00)"),
    ],
)
def test_without_a_truth_only_the_reward_is_spoken_of(reward: float, words: str) -> None:
    (sentence,) = verdicts(compared(reward=figure(reward), kl_to_sft=figure(3.14)))
    assert words in sentence
    assert ", at 3.1 nats of KL per completion" in sentence
    assert "was not measured" in sentence
    assert "better than" not in sentence


def test_every_tuned_model_has_its_sentence_and_a_plain_one_has_none() -> None:
    models = {"base": {}, "sft": {}, "ppo": {"win_over_sft": figure(0.7)}, "mine": {"win_over_sft": figure(0.5)}}
    findings = Findings("x", (), (), {"over": "sft", "models": models}, {"plain": ["base"]})
    starts = [sentence.partition(":")[0] for sentence in verdicts(findings)]
    assert starts == ["PPO answers better than SFT", "mine is not significantly different from SFT"]


def test_an_unfinished_run_has_no_verdict(tmp_path: Path) -> None:
    plan(tmp_path)
    finish(tmp_path, "tokenizer")
    finish(tmp_path, "sft")
    assert said(tmp_path) == "No verdict yet: 2 of 8 stages are finished (tokenizer, SFT)."


def test_truth_that_rises_first_and_then_falls_is_hacking_from_its_best_fifth() -> None:
    lines = rounds((0.0, 1.0), (0.0, 0.0))
    for line in lines:  # 0.5 at the ends, 0.8 in round 25 and after it straight down
        i = line["round"]
        line["truth"] = 0.5 + 0.3 * (i / 25 if i <= 25 else (60 - i) / 35)
    found = hacking(lines)
    assert found is not None
    assert (found.first_round, found.last_round) == (25, 60)
    assert found.truth[0] > 0.7 > 0.6 > found.truth[1]


@pytest.mark.parametrize(
    ("reward", "truth"),
    [((0.0, 0.9), (0.5, 0.7)), ((0.0, 0.9), (0.5, 0.5)), ((0.9, 0.0), (0.7, 0.3)), ((0.5, 0.5), (0.7, 0.3))],
    ids=["both rise", "truth flat", "both fall", "reward flat"],
)
def test_other_courses_are_not_hacking(reward: tuple[float, float], truth: tuple[float, float]) -> None:
    assert hacking(rounds(reward, truth)) is None


def test_few_rounds_and_unknown_truth_prove_nothing() -> None:
    lines = rounds((0.0, 0.9), (0.6, 0.1))
    assert hacking(lines) is not None
    assert hacking(lines[::5]) is None  # 12 rounds
    assert hacking([{k: v for k, v in line.items() if k != "truth"} for line in lines]) is None
    assert hacking([{**line, "truth": float("nan")} for line in lines]) is None
