"""Phrases: texts as CLDR has them, one translation for each text, ordinary spaces, a stable held-out tenth."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter, defaultdict
from datetime import date, timedelta
from itertools import permutations

import pytest
from babel.units import format_unit

from tropism.phrasebook.phrases import COMBINATORIAL, KINDS, LANGUAGES, Phrase, countries, make, phrase, units


@pytest.fixture(scope="module")
def many() -> list[Phrase]:
    """Every phrase of the kinds that can be enumerated in a second or two, and random ones of all kinds."""
    rng = random.Random("test phrases")
    found = [phrase(rng) for _ in range(8_000)]
    found += [make("country", code) for code in countries()]
    found += [make("weekday", str(day)) for day in range(7)]
    found += [make("time", f"short {minute // 60:02d}:{minute % 60:02d}:00") for minute in range(24 * 60)]
    spans = ("second", "minute", "hour", "day", "week", "month", "year")
    found += [make("relative", f"{s} {sign}{n}") for s in spans for sign in "+-" for n in range(1, 100)]
    found += [make("measure", f"{unit} {n}") for unit in units() for n in range(1, 126)]
    found += [make("measure", f"{unit} {n}.5") for unit in units() for n in range(20)]
    found += [make("date", f"MMMMd {date(2000, 1, 1) + timedelta(days=n)}") for n in range(366)]
    found += [make("date", f"long {date(1999, 12, 1) + timedelta(days=n)}") for n in range(430)]
    found += [make("date", f"yMMMM {y}-{m:02d}-01") for y in range(1990, 2012) for m in range(1, 13)]
    currencies = ("USD", "EUR", "GBP", "MYR", "RUB")
    found += [make("money", f"{f} {c} {n}.00") for f in ("standard", "name") for c in currencies for n in (1, 2, 5)]
    return list({(p.kind, p.key): p for p in found}.values())


@pytest.mark.parametrize(
    ("kind", "key", "texts"),
    [
        ("relative", "day +26", ("in 26 days", "dans 26 jours", "dalam 26 hari", "через 26 дней")),
        ("relative", "minute -90", ("90 minutes ago", "il y a 90 minutes", "90 minit lalu", "90 минут назад")),
        ("relative", "year +1", ("in 1 year", "dans 1 an", "dalam 1 tahun", "через 1 год")),
        (
            "measure",
            "length-kilometer 25.9",
            ("25.9 kilometers", "25,9 kilomètres", "25.9 kilometer", "25,9 километра"),
        ),
        ("measure", "duration-hour 1", ("1 hour", "1 heure", "1 jam", "1 час")),
        ("time", "short 15:05:00", ("3:05 PM", "15:05", "3:05 PTG", "15:05")),
        ("time", "medium 00:05:07", ("12:05:07 AM", "00:05:07", "12:05:07 PG", "00:05:07")),
        ("date", "long 2024-03-26", ("March 26, 2024", "26 mars 2024", "26 Mac 2024", "26 марта 2024 г.")),
        ("date", "MMMMd 2000-03-26", ("March 26", "26 mars", "26 Mac", "26 марта")),
        ("date", "yMMMM 2024-03-01", ("March 2024", "mars 2024", "Mac 2024", "март 2024 г.")),
        ("money", "standard USD 1250.50", ("$1,250.50", "1 250,50 $US", "USD1,250.50", "1 250,50 $")),
        ("money", "name EUR 26.00", ("26.00 euros", "26,00 euros", "26.00 Euro", "26,00 евро")),
        ("country", "JP", ("Japan", "Japon", "Jepun", "Япония")),
        ("weekday", "1", ("Tuesday", "mardi", "Selasa", "вторник")),
    ],
)
def test_texts(kind: str, key: str, texts: tuple[str, ...]) -> None:
    assert tuple(make(kind, key).texts[name] for name in ("English", "French", "Malay", "Russian")) == texts


def test_drawn_kinds_have_their_weights() -> None:
    rng = random.Random(0)
    drawn = Counter(phrase(rng).kind for _ in range(6_000))
    for kind, weight in KINDS.items():
        assert drawn[kind] / 6_000 == pytest.approx(weight / 100, abs=0.02)


def test_every_text_has_one_translation(many: list[Phrase]) -> None:
    translations: dict[tuple[str, str], set[str]] = defaultdict(set)
    for p in many:
        for source, target in permutations(LANGUAGES, 2):
            translations[p.texts[source], target].add(p.texts[target])
    assert {key: texts for key, texts in translations.items() if len(texts) > 1} == {}


def test_no_two_phrases_are_the_same(many: list[Phrase]) -> None:
    assert len({tuple(p.texts.values()) for p in many}) == len(many)


def test_no_odd_space_and_no_invisible_sign(many: list[Phrase]) -> None:
    signs = {sign for p in many for text in p.texts.values() for sign in text}
    assert {sign for sign in signs if unicodedata.category(sign)[0] in "ZC"} == {" "}
    assert all(text == " ".join(text.split()) and text for p in many for text in p.texts.values())


def test_no_unit_is_named_by_its_id(many: list[Phrase]) -> None:
    measures = [p for p in many if p.kind == "measure"]
    assert len(measures) > 2_000
    assert not [t for p in measures for t in p.texts.values() if p.key.split()[0] in t or "duration" in t]
    assert "duration-hour" in units()
    # the trap is there today; should a later CLDR fill the gap, the unit comes in by itself
    lacking = "duration-day" in format_unit(26, "duration-day", "long", locale="ms")
    assert ("duration-day" not in units()) == lacking


def test_countries_are_one_in_five() -> None:
    assert 45 <= len(countries()) <= 57
    assert {"FR", "JP", "DE"} <= set(countries())
    assert not {"ZZ", "EU", "EZ", "UN", "XA"} & set(countries())


def test_held_out_is_a_tenth_of_every_combinatorial_kind(many: list[Phrase]) -> None:
    for kind in COMBINATORIAL:
        shares = [p.held_out for p in many if p.kind == kind]
        assert sum(shares) / len(shares) == pytest.approx(0.1, abs=0.035), kind
    assert 3 <= sum(make("country", code).held_out for code in countries()) <= 9


def test_held_out_is_the_documented_hash() -> None:
    # coreutils' sha256sum of "country:FR" begins 930c34ae323eb4e4, which is 0 modulo 10; JP 0, DE 8, CA 2
    assert [make("country", code).held_out for code in ("FR", "JP", "DE", "CA")] == [True, True, False, False]


def test_held_out_can_be_asked_for() -> None:
    rng = random.Random(3)
    assert all(phrase(rng, held_out=True).held_out for _ in range(200))
    assert not any(phrase(rng, held_out=False).held_out for _ in range(200))
    assert {phrase(rng, kinds=("weekday", "time")).kind for _ in range(200)} == {"weekday", "time"}


def test_a_phrase_follows_from_the_random_state() -> None:
    assert [phrase(random.Random(5)) for _ in range(3)] == [phrase(random.Random(5))] * 3
    one, other = random.Random(5), random.Random(6)
    assert [phrase(one) for _ in range(20)] != [phrase(other) for _ in range(20)]
