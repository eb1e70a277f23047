"""Simulated demonstrators: their translations are mostly right and sometimes wordy.

Independently of each other, 15 % of the answers have a typing mistake (one digit, or one letter if there is no
digit) and 35 % have chatter around the answer. No demonstrator answers something unrelated to the request: in
experiments that ruined the model.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

MISTYPED = 0.15
CHATTER = 0.35

_CHATTER_FORMS = (
    "Sure! {}",
    "Of course: {}",
    "{}, I think.",
    "The answer is {}.",
    "{}. I hope that helps!",
)
_ALPHABETS = ("0123456789", "abcdefghijklmnopqrstuvwxyz", "абвгдежзийклмнопрстуфхцчшщыьэюя")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """The answer of a simulated demonstrator, and which of the two habits it shows."""

    text: str
    mistyped: bool
    chatter: bool


def demonstrate(answer: str, rng: random.Random) -> Demonstration:
    """`answer` as a simulated demonstrator writes it."""
    mistyped, chatter = rng.random() < MISTYPED, rng.random() < CHATTER
    text = mistype(answer, rng) if mistyped else answer
    return Demonstration(rng.choice(_CHATTER_FORMS).format(text) if chatter else text, mistyped, chatter)


def mistype(answer: str, rng: random.Random) -> str:
    """`answer` with one digit replaced by another; without digits, one letter by another of its alphabet."""
    places = [i for i, sign in enumerate(answer) if sign in _ALPHABETS[0]]
    if not places:
        places = [i for i, sign in enumerate(answer) if any(sign.lower() in letters for letters in _ALPHABETS)]
    place = rng.choice(places)
    old = answer[place]
    alphabet = next(letters for letters in _ALPHABETS if old.lower() in letters)
    new = rng.choice([sign for sign in alphabet if sign != old.lower()])
    return answer[:place] + (new.upper() if old.isupper() else new) + answer[place + 1 :]
