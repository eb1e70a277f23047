"""True quality: hand-worked values, and right above wrong on everything the phrasebook and its people can say."""

from __future__ import annotations

import math
import random
from itertools import islice

import pytest
from sacrebleu import sentence_chrf

from tropism.phrasebook.demonstrations import demonstrate, mistype
from tropism.phrasebook.phrases import countries, make, units
from tropism.phrasebook.quality import exact, quality
from tropism.phrasebook.translations import translations


@pytest.mark.parametrize(
    ("completion", "target", "extra"),
    [
        ("26 jours.", "26 jours", 1),
        ("Sure! 26 jours", "26 jours", 6),
        ("26 jours, I think.", "26 jours", 10),
        ("The answer is 26 jours.", "26 jours", 15),
        ("26 jours is the answer", "26 jours", 14),
        ("Sure, 26 jours !", "26 jours", 8),
        ('The answer: "26 jours"', "26 jours", 14),
        ("26 jours\nEnglish: in 26 days", "26 jours", 20),
        ("26 марта 2024 г. I hope that helps!", "26 марта 2024 г.", 19),
        (" Of course: Japon \n", "Japon", 11),
    ],
)
def test_a_right_answer_in_chatter(completion: str, target: str, extra: int) -> None:
    assert quality(completion, target) == pytest.approx(0.5 + 0.3 * math.exp(-extra / 40), abs=1e-12)


@pytest.mark.parametrize(
    ("completion", "target"),
    [
        ("27 jours", "26 jours"),
        ("126 jours", "26 jours"),
        ("-26 jours", "26 jours"),
        ("1,26 jours", "26 jours"),
        ("1 26 jours", "26 jours"),
        ("dans 26 jours", "26 jours"),
        ("26 days ago", "26 days"),
        ("26 kilometers per hour", "26 kilometers"),
        ("26 jours or 27 jours", "26 jours"),
        ("26 jours, 27 jours", "26 jours"),
        ("Sure! 26 jours. Or was it 27?", "26 jours"),
        ("15:05:07", "15:05"),
        ("03:03:03", "03:03"),
        ("3,3 jours", "3 jours"),
        ("12:05 PM", "12:05"),
        ("26,00 $US", "26,00 $"),
        ("CA$26.00", "$26.00"),
        ("March 26, 2024", "March 26"),
        ("26 mars 2024", "mars 2024"),
        ("South Sudan", "Sudan"),
        ("Sure!", "26 jours"),
        ("26 JOURS", "26 jours"),
        ("", "26 jours"),
        ("anything", ""),
    ],
)
def test_a_wrong_answer(completion: str, target: str) -> None:
    assert 0.0 <= quality(completion, target) <= 0.3
    assert exact(completion, target) == 0.0


def test_exact() -> None:
    assert quality(" 26 jours\n", "26 jours") == exact(" 26 jours\n", "26 jours") == 1.0
    assert exact("26 jours.", "26 jours") == 0.0


def test_a_wrong_answer_is_worth_a_tenth_for_each_quarter_of_its_chrf() -> None:
    # "ab" for "ac": 1 of 2 letters, 0 of 1 pairs; mean precision = mean recall = F = 0.25
    assert quality("ab", "ac") == 0.1
    # spaces do not count in chrF: all n-grams match
    assert quality("2 6 jours", "26 jours") == 0.3
    assert quality("xyz", "26") == 0.0
    scores = {
        sentence_chrf(text, ["26 jours"]).score // 25: quality(text, "26 jours") for text in ("27 jours", "jours", "26")
    }
    assert scores == {quarter: quarter / 10 for quarter in scores}
    assert len(scores) > 1


def test_longer_chatter_is_worse() -> None:
    values = [quality("Sure! " + "well, " * n + "26 jours", "26 jours") for n in range(40)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 40
    assert values[-1] > 0.5


def test_right_stands_above_wrong_for_all_demonstrators() -> None:
    rng = random.Random("test quality")
    for translation in islice(translations(rng, held_out=False), 2_000):
        demonstration = demonstrate(translation.answer, rng)
        value = quality(demonstration.text, translation.answer)
        if demonstration.mistyped:
            assert value <= 0.3, demonstration
        elif demonstration.chatter:
            assert 0.65 < value < 0.8, demonstration
        else:
            assert value == 1.0


def test_more_typing_mistakes_are_worse_on_average() -> None:
    rng = random.Random(1)
    answers = [t.answer for t in islice(translations(rng, held_out=False), 500)]
    once = [mistype(answer, rng) for answer in answers]
    twice = [mistype(mistype(mistype(text, rng), rng), rng) for text in once]
    assert sum(map(quality, once, answers)) > sum(map(quality, twice, answers)) + 10


def test_a_phrase_that_contains_another_is_wrong() -> None:
    keys = [("relative", f"{s} {d}") for s in ("hour", "week", "month") for d in ("+3", "-3", "+13")]
    keys += [("measure", f"{unit} {n}") for unit in units() for n in ("3", "13", "1.3")]
    keys += [("date", k) for k in ("long 2024-03-03", "MMMMd 2000-03-03", "yMMMM 2024-03-01")]
    keys += [("time", k) for k in ("short 12:03:00", "medium 12:03:13", "short 22:03:00")]
    keys += [("money", f"{f} {c} 3.00") for f in ("standard", "name") for c in ("USD", "GBP", "EUR")]
    keys += [("country", code) for code in countries()]
    texts = {text for kind, key in keys for text in make(kind, key).texts.values()}
    nested = [(long, short) for long in texts for short in texts if short != long and short in long]
    assert len(nested) > 30
    assert [(long, short, quality(long, short)) for long, short in nested if quality(long, short) > 0.3] == []
