"""A panel against scores worked by hand and numpy; its refs; and an ensemble of reward models in a whole recipe."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny_recipe import BASE, RANKINGS, SAMPLES, SFT, TOKENIZER, tropism
from tropism.errors import TropismError
from tropism.judges.panel import Member, Panel
from tropism.judges.reward_model import RewardModel
from tropism.judges.verifier import Verifier
from tropism.protocols import Judge
from tropism.recipe.build import build
from tropism.recipe.read import parse
from tropism.recipe.refs import bind, refs
from tropism.store.fingerprint import fingerprint
from tropism.store.folder import latest
from tropism.store.groups import GROUPS_FILE, read_groups, write_groups
from tropism.types import Artifact, Completion, Group, Judgment, Message, Step


def length(completion: str) -> float:
    return float(len(completion))


def vowels(completion: str) -> float | None:
    """Abstains on a completion with a question mark."""
    return None if "?" in completion else float(sum(c in "aeiou" for c in completion))


def group(n: int, *texts: str) -> Group:
    return Group(f"g{n}", (Message("user", "say"),), tuple(map(Completion, texts)))


# lengths 1 2 3 4 5: mean 3, variance 2; vowels 0 1 0 1 3: mean 1, variance 6/5
CALIBRATION = [group(0, "x", "ax"), group(1, "xyz"), group(2, "axyz", "aexyi")]
LENGTH, VOWELS = (3.0, 2**0.5), (1.0, 1.2**0.5)


@pytest.fixture
def samples(tmp_path: Path) -> str:
    write_groups(CALIBRATION, tmp_path / GROUPS_FILE)
    return str(tmp_path)


def panel(samples: str, weights: Sequence[float] = (1.0, 1.0), **more: Any) -> Panel:
    judges = (Verifier(length), Verifier(vowels))
    return Panel(tuple(Member(j, w) for j, w in zip(judges, weights)), samples, **more)


def test_scores_are_the_weighted_mean_of_normalised_scores(samples: str) -> None:
    """`aeiou`: length 5, vowels 5. z = (5 - 3) / sqrt 2 = 1.41421 and (5 - 1) / sqrt 1.2 = 3.65148."""
    (said,) = panel(samples).judge([group(9, "aeiou", "xyz")])
    assert said.scores == pytest.approx([(1.41421 + 3.65148) / 2, (0 - 0.91287) / 2], abs=1e-5)
    assert (said.judge, said.scale) == ("panel@1", "interval")
    (said,) = panel(samples, (3.0, 1.0)).judge([group(9, "aeiou", "xyz")])
    assert said.scores == pytest.approx([(3 * 1.41421 + 3.65148) / 4, -0.91287 / 4], abs=1e-5)


def test_pessimism_takes_the_weighted_standard_deviation_of_the_members(samples: str) -> None:
    """Two members of equal weight stand |z1 - z2| / 2 from their mean: 1.11863 for `aeiou`."""
    (said,) = panel(samples, pessimism=0.5).judge([group(9, "aeiou")])
    assert said.scores == pytest.approx([2.53285 - 0.5 * 1.11863], abs=1e-4)
    texts = ["aeiou", "bcd", "a", "", "banana split"]
    (said,) = panel(samples, (3.0, 0.5), pessimism=2.0).judge([group(9, *texts)])
    for text, score in zip(texts, said.scores):
        z = np.array([(length(text) - LENGTH[0]) / LENGTH[1], ((vowels(text) or 0) - VOWELS[0]) / VOWELS[1]])
        repeated = np.repeat(z, [6, 1])  # weights 3 and 0.5 are six voices and one
        assert score == pytest.approx(repeated.mean() - 2.0 * repeated.std(), abs=1e-6)


def test_members_that_agree_pay_nothing_and_their_units_do_not_matter(samples: str) -> None:
    metres = Panel((Member(Verifier(length)), Member(Verifier(lambda completion: 7 + len(completion) / 1e6))), samples)
    (plain,) = metres.judge([group(9, "a", "abcdefg")])
    (careful,) = replace(metres, pessimism=5.0).judge([group(9, "a", "abcdefg")])
    assert plain.scores == pytest.approx([-2 / LENGTH[1], 4 / LENGTH[1]], abs=1e-6)
    assert careful.scores == pytest.approx(plain.scores, abs=1e-6)


def test_on_what_it_is_calibrated_on_a_member_has_mean_zero_and_deviation_one(samples: str) -> None:
    alone = Panel((Member(Verifier(length)),), samples)
    scores = [s for j in alone.judge(CALIBRATION) for s in j.scores]
    assert (np.mean(scores), np.std(scores)) == pytest.approx((0.0, 1.0))


def test_where_one_member_abstains_the_panel_does(samples: str) -> None:
    (said,) = panel(samples).judge([group(9, "why?", "xyz")])
    assert said.scores[0] is None and said.scores[1] is not None


def test_what_a_member_abstains_on_is_left_out_of_its_scale(tmp_path: Path) -> None:
    write_groups([*CALIBRATION, group(3, "?", "??")], tmp_path / GROUPS_FILE)
    alone = Panel((Member(Verifier(vowels)),), str(tmp_path))
    (said,) = alone.judge([group(9, "aeiou")])
    assert said.scores == pytest.approx([4 / VOWELS[1]])


def test_an_ordinal_member_makes_an_ordinal_panel(samples: str) -> None:
    class Ranker:
        def judge(self, groups: Sequence[Group]) -> list[Judgment]:
            ranked = [tuple(-float(k) for k, _ in enumerate(g.completions)) for g in groups]
            return [Judgment("r", scores, "ordinal", tokens=7) for scores in ranked]

    (said,) = Panel((Member(Verifier(length)), Member(Ranker()), Member(Ranker())), samples).judge([group(9, "a", "b")])
    assert said.scale == "ordinal"
    assert said.tokens == 14  # what both rankers read


def halves(completion: str) -> Judgment | float:
    """Its length, and of more than two characters a reward of 1 for the first two and of -2 for all; None for "?"."""
    if "?" in completion:
        return Judgment("", (None,), steps=((Step(1, 1.0),),))
    if len(completion) < 3:
        return length(completion)
    return Judgment("", (length(completion),), steps=((Step(len(completion), -2.0), Step(2, 1.0)),))


def second(completion: str) -> Judgment:
    """Its vowels, and a reward of 3 for the first two characters of each."""
    return Judgment("", (vowels(completion.replace("?", "")),), steps=((Step(min(2, len(completion)), 3.0),),))


def test_rewards_for_steps_are_scaled_and_weighted_as_scores_are(samples: str) -> None:
    """Of three parts length and one part vowels: 1 is worth 3/4 / sqrt 2 of the first, 1/4 / sqrt 1.2 of the second."""
    one, other = 0.75 / LENGTH[1], 0.25 / VOWELS[1]
    judges = (Member(Verifier(halves), 3.0), Member(Verifier(second)))
    (said,) = Panel(judges, samples, pessimism=1.0).judge([group(9, "abcd", "x", "?")])
    steps = said.steps
    assert steps is not None and steps[2] is None  # where a member abstains, the panel says nothing
    assert [s.end for s in steps[0] or ()] == [2, 4] and [s.end for s in steps[1] or ()] == [1]
    assert [s.reward for s in steps[0] or ()] == pytest.approx([one + 3 * other, -2 * one])
    assert [s.reward for s in steps[1] or ()] == pytest.approx([3 * other])
    assert panel(samples).judge([group(9, "abcd")])[0].steps is None


def test_calibration_takes_as_many_groups_as_it_is_told_spread_evenly_and_once(tmp_path: Path) -> None:
    write_groups([group(n, "x" * n, "y" * (n + 1)) for n in range(10)], tmp_path / GROUPS_FILE)
    seen: list[str] = []

    class Counting:
        def judge(self, groups: Sequence[Group]) -> list[Judgment]:
            seen.extend(g.id for g in groups)
            return [Judgment("c", tuple(float(len(c.text)) for c in g.completions)) for g in groups]

    few = Panel((Member(Counting()),), str(tmp_path), calibration_groups=3)
    (said,) = few.judge([group(99, "xxxx")])
    assert seen == ["g0", "g3", "g6", "g99"]
    lengths = [0, 1, 3, 4, 6, 7]
    assert said.scores == pytest.approx([(4 - np.mean(lengths)) / np.std(lengths)])
    few.judge([group(98, "xxxx")])
    assert seen == ["g0", "g3", "g6", "g99", "g98"]


def silent(completion: str) -> float | None:
    return None


@pytest.mark.parametrize(
    ("function", "says"),
    [(lambda completion: 1.0, "the same score to every completion"), (silent, "no score to any completion")],
)
def test_a_member_without_a_scale_is_named(samples: str, function: Any, says: str) -> None:
    with pytest.raises(TropismError, match=f"member 2 of the panel .Verifier. gives {says} of .*: drop it, or set"):
        Panel((Member(Verifier(length)), Member(Verifier(function))), samples).judge(CALIBRATION)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"members": []}, "a panel has no members"),
        ({"pessimism": -1}, "x.pessimism = -1.0 must be a number of 0 or more"),
        ({"calibration_groups": 0}, "calibration_groups = 0 must be a whole number of 1 or more"),
        ({"members": [{"judge": "annotator", "weight": 0}]}, r"x.members\[0\].weight = 0.0 must be a number above 0"),
        ({"members": [{"judge": "annotator", "wieght": 1}]}, r"x.members\[0\] has no key 'wieght': did you mean 'wei"),
        ({"members": [{"judge": "annotater"}]}, "there is no kind 'annotater' among the judges: did you mean"),
    ],
)
def test_a_wrong_panel_is_refused_with_its_key(table: dict[str, Any], says: str) -> None:
    whole = {"kind": "panel", "members": [{"judge": "annotator"}], "calibrated_on": "samples", **table}
    with pytest.raises(TropismError, match=says):
        build(Judge, whole, "x")


def test_the_stages_it_names_are_found_checked_and_bound() -> None:
    made = Panel((Member(RewardModel("a")), Member(RewardModel("b"), 2.0)), "samples")
    assert [(f, r.what, v) for f, r, v in refs(made)] == [
        ("members.0.judge.model", "a reward model", "a"),
        ("members.1.judge.model", "a reward model", "b"),
        ("calibrated_on", "groups", "samples"),
    ]
    bound = bind(made, str.upper)
    assert bound == Panel((Member(RewardModel("A")), Member(RewardModel("B"), 2.0)), "SAMPLES")


MODELS = "".join(
    f"""
[[stage]]
id = "reward_{name}"
kind = "reward"
model = "{start}"
groups = "rankings"
judge = "annotator"
groups_per_step = 4
passes = 1.0
"""
    for name, start in (("a", "sft"), ("b", "sft"), ("c", "base"))
)
ENSEMBLE = """
[[stage]]
id = "ppo"
kind = "rl"
policy = "sft"
prompts = { kind = "phrasebook", part = "prompts", count = 24 }
rounds = 2
prompts_per_round = 4
sampling = { n = 2, max_tokens = 8 }

[stage.judge]
kind = "panel"
calibrated_on = "samples"
pessimism = 1.0
members = [
    { judge = { kind = "reward_model", model = "reward_a" } },
    { judge = { kind = "reward_model", model = "reward_b" } },
    { judge = { kind = "reward_model", model = "reward_c" }, weight = 0.5 },
]
"""


def test_a_changed_member_makes_a_new_fingerprint() -> None:
    text = TOKENIZER + BASE + SFT + SAMPLES + RANKINGS + MODELS + ENSEMBLE
    stage = parse_text(text)["ppo"]
    made = {id: Artifact("model", Path(id), f"mark of {id}", id) for id in parse_text(text)}
    mark = fingerprint(stage, 0, made)
    assert fingerprint(stage, 0, made) == mark
    for id in ("reward_a", "reward_b", "reward_c", "samples"):
        assert fingerprint(stage, 0, {**made, id: replace(made[id], fingerprint="other")}) != mark
    for change in ("weight = 0.7", "pessimism = 0.9"):
        key = change.split(" = ")[0]
        old = "weight = 0.5" if key == "weight" else "pessimism = 1.0"
        assert fingerprint(parse_text(text.replace(old, change))["ppo"], 0, made) != mark
    wrong = text.replace('calibrated_on = "samples"', 'calibrated_on = "sft"')
    with pytest.raises(TropismError, match="ppo.judge.calibrated_on names 'sft', which makes a policy, not groups"):
        parse_text(wrong)


def parse_text(text: str) -> Any:
    return parse(tomllib.loads(text), "r.toml").stages


def test_an_ensemble_is_reward_stages_of_other_ids(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TOKENIZER + BASE + SFT + SAMPLES + RANKINGS + MODELS + ENSEMBLE)
    said = tropism("run", tmp_path / "r.toml", "--out", tmp_path / "run")
    assert said.code == 0, said.err
    out = {id: folder / "out" for id, folder in latest(tmp_path / "run").items()}
    groups = list(read_groups(out["samples"]))
    names = ("reward_a", "reward_b", "reward_c")
    each = np.array([[s for j in RewardModel(str(out[n])).judge(groups) for s in j.scores] for n in names])
    spread = each.std(axis=1)
    assert len({round(float(s), 6) for s in each[:, 0]}) == 3  # another id, another seed, another model
    z = (each - each.mean(axis=1, keepdims=True)) / spread[:, None]
    repeated = np.repeat(z, [2, 2, 1], axis=0)  # weights 1, 1 and 0.5
    members = tuple(Member(RewardModel(str(out[n])), w) for n, w in zip(names, (1.0, 1.0, 0.5)))
    scores = [s for j in Panel(members, str(out["samples"]), pessimism=1.0).judge(groups) for s in j.scores]
    assert scores == pytest.approx((repeated.mean(0) - repeated.std(0)).tolist(), abs=1e-4)
    lines = [json.loads(line) for line in (out["ppo"].parent / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(np.isfinite(line["reward"]) for line in lines)
