"""Phrases in each language, from CLDR: dates, times, measures, money, countries, weekdays.

A phrase is a kind and a key ("measure", "length-meter 26"), which determine its texts, so a phrase that is drawn
twice is the same phrase. About one phrase in ten is held out, by a hash of kind and key that no seed changes. A
model that has learned the parts of a held-out phrase from other phrases can translate it; only names (countries,
weekdays) cannot be guessed.

Every text is unambiguous: it has exactly one translation into each other language. Units are therefore always
spelled out. Left out: lists, and every unit for which one of the locales has no pattern, where Babel would return
the unit's id (Malay has none for days: "26 duration-day").
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from calendar import isleap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, time, timedelta
from decimal import Decimal
from typing import Literal, cast

from babel import Locale
from babel.core import get_global
from babel.dates import format_date, format_skeleton, format_time, format_timedelta
from babel.numbers import format_currency, get_currency_precision
from babel.units import format_unit

LANGUAGES: Mapping[str, str] = {"English": "en", "French": "fr", "Malay": "ms", "Russian": "ru"}

# How often each kind is drawn. Names have to be memorised, so they are drawn more often than their number suggests.
KINDS: Mapping[str, int] = {
    "date": 24,
    "time": 14,
    "relative": 20,
    "measure": 20,
    "money": 12,
    "country": 8,
    "weekday": 2,
}
NAMES = ("country", "weekday")
COMBINATORIAL = tuple(kind for kind in KINDS if kind not in NAMES)

_CURRENCIES = ("USD", "EUR", "GBP", "JPY", "MYR", "RUB")
_SPANS: Mapping[str, timedelta] = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    "month": timedelta(days=30),
    "year": timedelta(days=365),
}
_UNITS = (
    "duration-minute",
    "duration-hour",
    "duration-day",
    "duration-week",
    "duration-month",
    "duration-year",
    "length-centimeter",
    "length-meter",
    "length-kilometer",
    "length-foot",
    "length-mile",
    "mass-gram",
    "mass-kilogram",
    "volume-liter",
    "temperature-celsius",
    "speed-kilometer-per-hour",
    "area-square-meter",
    "concentr-percent",
)
_ONE_HELD_OUT_IN = 10


@dataclass(frozen=True, slots=True)
class Phrase:
    """One phrase in each language; `texts` maps each name in `LANGUAGES` to a text."""

    kind: str
    key: str
    texts: Mapping[str, str] = field(compare=False)

    @property
    def held_out(self) -> bool:
        """True for the tenth of all phrases that only evaluations use."""
        return _is_held_out(self.kind, self.key)


def phrase(rng: random.Random, kinds: Sequence[str] = tuple(KINDS), held_out: bool | None = None) -> Phrase:
    """A phrase drawn at random from `kinds`; `held_out` True or False draws only from that part of them."""
    weights = [KINDS[kind] for kind in kinds]
    while True:
        kind = rng.choices(kinds, weights)[0]
        key = _DRAW[kind](rng)
        if held_out is None or _is_held_out(kind, key) == held_out:
            return make(kind, key)


@functools.lru_cache(maxsize=1 << 15)
def make(kind: str, key: str) -> Phrase:
    """The phrase of this kind and key."""
    say = _SAY[kind]
    return Phrase(kind, key, {name: _plain_spaces(say(key, locale)) for name, locale in LANGUAGES.items()})


@functools.cache
def countries() -> tuple[str, ...]:
    """The codes of the territories kept: every fifth of those with two letters and a known language."""
    named: set[str] = set.intersection(*(set(Locale(locale).territories) for locale in LANGUAGES.values()))
    spoken = named & set(get_global("territory_languages")) - {"ZZ"}  # no "Eurozone", no "Unknown Region"
    # of the five ways to take every fifth, the one with the most widely known names
    return tuple(sorted(code for code in spoken if len(code) == 2 and code.isalpha())[3::5])


@functools.cache
def units() -> tuple[str, ...]:
    """The units of measure for which every locale has a pattern, whatever the plural."""
    return tuple(
        unit
        for unit in _UNITS
        if not any(
            unit in format_unit(number, unit, "long", locale=locale)
            for locale in LANGUAGES.values()
            for number in (1, 2, 5, 1.5)
        )
    )


def _is_held_out(kind: str, key: str) -> bool:
    digest = hashlib.sha256(f"{kind}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _ONE_HELD_OUT_IN == 0


def _plain_spaces(text: str) -> str:
    """Replaces CLDR's no-break spaces of several widths: a small vocabulary has room for one kind of space."""
    return re.sub(r"\s+", " ", text).strip()


def _draw_date(rng: random.Random) -> str:
    pattern = rng.choice(("long", "long", "MMMMd", "yMMMM"))
    if pattern == "yMMMM":
        return f"{pattern} {date(rng.randint(1900, 2099), rng.randint(1, 12), 1)}"
    year = rng.randint(1900, 2099) if pattern == "long" else 2000  # a leap year, so that 29 February occurs
    return f"{pattern} {date(year, 1, 1) + timedelta(days=rng.randrange(365 + isleap(year)))}"


def _say_date(key: str, locale: str) -> str:
    pattern, day = key.split()
    if pattern == "long":
        return format_date(date.fromisoformat(day), "long", locale=locale)
    return format_skeleton(pattern, date.fromisoformat(day), tzinfo=UTC, locale=locale)


def _draw_time(rng: random.Random) -> str:
    width = rng.choice(("short", "short", "medium"))
    return f"{width} {time(rng.randrange(24), rng.randrange(60), rng.randrange(60) if width == 'medium' else 0)}"


def _say_time(key: str, locale: str) -> str:
    width, moment = key.split()
    # an explicit zone: the key is what the clock shows, not a moment to convert
    return format_time(time.fromisoformat(moment), cast(Literal["short", "medium"], width), tzinfo=UTC, locale=locale)


def _draw_relative(rng: random.Random) -> str:
    return f"{rng.choice(list(_SPANS))} {rng.choice((-1, 1)) * rng.randint(1, 99):+d}"


def _say_relative(key: str, locale: str) -> str:
    span, number = key.split()
    # the threshold keeps the unit: 90 minutes stay minutes
    return format_timedelta(
        _SPANS[span] * int(number),
        granularity=cast(Literal["second"], span),
        threshold=float("inf"),
        add_direction=True,
        locale=locale,
    )


def _draw_measure(rng: random.Random) -> str:
    number = rng.choice(
        (
            lambda: f"{rng.randint(1, 99)}",
            lambda: f"{rng.randint(100, 999)}",
            lambda: f"{rng.randint(0, 99)}.{rng.randint(1, 9)}",
        )
    )
    return f"{rng.choice(units())} {number()}"


def _say_measure(key: str, locale: str) -> str:
    unit, number = key.split()
    return format_unit(Decimal(number), unit, "long", locale=locale)


def _draw_money(rng: random.Random) -> str:
    currency, digits = rng.choice(_CURRENCIES), rng.randint(1, 4)
    amount = f"{rng.randrange(10 ** (digits - 1), 10**digits)}"
    if get_currency_precision(currency) == 2:
        amount += f".{rng.randrange(100):02d}"
    return f"{rng.choice(('standard', 'name'))} {currency} {amount}"


def _say_money(key: str, locale: str) -> str:
    form, currency, amount = key.split()
    return format_currency(
        Decimal(amount), currency, locale=locale, format_type=cast(Literal["name", "standard"], form)
    )


def _draw_country(rng: random.Random) -> str:
    return rng.choice(countries())


def _say_country(key: str, locale: str) -> str:
    return Locale(locale).territories[key]


def _draw_weekday(rng: random.Random) -> str:
    return str(rng.randrange(7))


def _say_weekday(key: str, locale: str) -> str:
    return Locale(locale).days["stand-alone"]["wide"][int(key)]


_DRAW: Mapping[str, Callable[[random.Random], str]] = {
    "date": _draw_date,
    "time": _draw_time,
    "relative": _draw_relative,
    "measure": _draw_measure,
    "money": _draw_money,
    "country": _draw_country,
    "weekday": _draw_weekday,
}
_SAY: Mapping[str, Callable[[str, str], str]] = {
    "date": _say_date,
    "time": _say_time,
    "relative": _say_relative,
    "measure": _say_measure,
    "money": _say_money,
    "country": _say_country,
    "weekday": _say_weekday,
}
