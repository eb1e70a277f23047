"""Simulated annotators: ranks by hand without noise, then noise, ties and position bias as measured."""

from __future__ import annotations

import random
from itertools import combinations
from statistics import NormalDist

import pytest

from tropism.formats.phrasebook import Phrasebook
from tropism.judges.annotator import Annotator
from tropism.phrasebook.demonstrations import demonstrate, mistype
from tropism.phrasebook.quality import quality
from tropism.protocols import Judge
from tropism.recipe.build import build
from tropism.types import Completion, Group


def _group(texts: list[str], target: str | None = "26 jours", identity: str = "g") -> Group:
    return Group(identity, (), tuple(Completion(text) for text in texts), target=target)


def _mixed(count: int) -> list[Group]:
    """Groups of seven such as a half-trained model samples: right, in chatter, mistyped, or a wrong phrase."""
    rng = random.Random("test annotator")
    groups = []
    prompts = list(Phrasebook("prompts", count).groups())
    for prompt in prompts:
        right = prompt.target or ""
        makers = (
            lambda right=right: right,
            lambda right=right: demonstrate(right, rng).text,
            lambda right=right: mistype(right, rng),
            lambda right=right: demonstrate(mistype(mistype(right, rng), rng), rng).text,
            lambda right=right: " ".join(rng.choice((right, rng.choice(prompts).target or "")).split()[:-1]),
        )
        groups.append(_group([rng.choices(makers, (30, 30, 20, 10, 10))[0]() for _ in range(7)], right, prompt.id))
    return groups


def test_ranks_without_noise() -> None:
    texts = ["jours", "26 jours", "Sure! 26 jours", "26 jours\n", "xyz"]
    judgment = Annotator(noise=0, tie_margin=0, position_bias=0).judge([_group(texts)])[0]
    assert judgment.scores == (-3.0, -1.0, -2.0, -1.0, -4.0)
    assert (judgment.judge, judgment.scale) == ("annotator@1", "ordinal")
    assert "simulated" in judgment.rationale
    assert sorted(judgment.shown or ()) == [0, 1, 2, 3, 4]


def test_a_rank_takes_all_within_the_margin_of_its_first() -> None:
    # 1, 5, 10 and 16 characters of chatter: 0.7926, 0.7647, 0.7336, 0.7011; neighbours differ by about 0.03
    texts = ["26 jours" + "!" * extra for extra in (1, 5, 10, 16)]
    assert Annotator(0, 0.05, 0).judge([_group(texts)])[0].scores == (-1.0, -1.0, -2.0, -2.0)
    assert Annotator(0, 0.02, 0).judge([_group(texts)])[0].scores == (-1.0, -2.0, -3.0, -4.0)
    assert Annotator(0, 0.10, 0).judge([_group(texts)])[0].scores == (-1.0, -1.0, -1.0, -1.0)


def test_the_same_text_ties_whatever_the_noise() -> None:
    noisy = Annotator(noise=1.0, tie_margin=0, position_bias=1.0)
    for n in range(200):
        scores = noisy.judge([_group(["a", "26 jours", "a ", "27 jours", "a"], identity=f"g{n}")])[0].scores
        assert scores[0] == scores[2] == scores[4]
        assert len(set(scores)) == 3


def test_a_text_stands_where_it_is_shown_first() -> None:
    texts = ["Sure! 26 jours", "Well! 26 jours", "Sure! 26 jours"]  # equally good
    for n in range(100):
        judgment = Annotator(noise=0, tie_margin=0).judge([_group(texts, identity=f"g{n}")])[0]
        first = (judgment.shown or ())[0]
        assert judgment.scores == ((-2.0, -1.0, -2.0) if first == 1 else (-1.0, -2.0, -1.0))


def test_what_cannot_be_judged_has_no_score() -> None:
    judgment = Annotator().judge([_group(["26 jours", "27 jours"], target=None)])[0]
    assert judgment.scores == (None, None)
    assert "simulated" in judgment.rationale
    failed = Group("g", (), (Completion("26 jours"), Completion("", finish_reason="error")), target="26 jours")
    assert Annotator().judge([failed])[0].scores == (-1.0, None)
    assert Annotator().judge([_group([])])[0].scores == ()
    assert Annotator().judge([_group(["x"])])[0].scores == (-1.0,)


def test_a_judgment_depends_on_seed_and_group_alone() -> None:
    groups = _mixed(60)
    judgments = Annotator().judge(groups)
    assert judgments == Annotator().judge(groups)
    assert judgments[::-1] == Annotator().judge(groups[::-1])
    assert judgments != Annotator(seed=1).judge(groups)


def test_agreement_with_the_truth() -> None:
    groups = _mixed(400)
    agree = pairs = 0.0
    for group, judgment in zip(groups, Annotator().judge(groups)):
        true = [quality(c.text, group.target or "") for c in group.completions]
        for a, b in combinations(range(7), 2):
            if true[a] != true[b]:
                said = (judgment.scores[a] or 0) - (judgment.scores[b] or 0)
                agree += 0.5 if said == 0 else float((said > 0) == (true[a] > true[b]))
                pairs += 1
    assert pairs > 5_000
    assert 0.9 < agree / pairs < 0.96


@pytest.mark.parametrize("bias", [0.0, 0.04, 0.15])
def test_position_bias(bias: float) -> None:
    annotator = Annotator(position_bias=bias)
    groups = [_group(["Sure! 26 jours", "Well! 26 jours"], identity=f"g{n}") for n in range(4_000)]
    first = tied = 0
    for judgment in annotator.judge(groups):
        shown, scores = judgment.shown or (), judgment.scores
        tied += scores[0] == scores[1]
        first += (scores[shown[0]] or 0) > (scores[shown[1]] or 0)
    difference = NormalDist(bias, annotator.noise * 2**0.5)  # of the two utilities, which are equally good
    assert first / 4_000 == pytest.approx(1 - difference.cdf(annotator.tie_margin), abs=0.025)
    expected = difference.cdf(annotator.tie_margin) - difference.cdf(-annotator.tie_margin)
    assert tied / 4_000 == pytest.approx(expected, abs=0.025)


def test_the_default_bias_is_mild() -> None:
    annotator = Annotator()
    chance = 1 - NormalDist(annotator.position_bias, annotator.noise * 2**0.5).cdf(0)
    assert 0.52 < chance < 0.62


def test_completions_are_shown_in_random_order() -> None:
    groups = [_group(["a", "b", "c"], identity=f"g{n}") for n in range(3_000)]
    firsts = [(judgment.shown or ())[0] for judgment in Annotator().judge(groups)]
    assert all(firsts.count(index) == pytest.approx(1_000, abs=100) for index in range(3))


def test_in_a_recipe() -> None:
    judge = build(Judge, {"kind": "annotator", "noise": 0.2}, "label.judge")
    assert judge == Annotator(noise=0.2)
    assert isinstance(judge, Judge)
