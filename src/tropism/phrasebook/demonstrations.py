"""Simulated demonstrators: they answer a request for a translation mostly rightly and not always briefly.

Independently of each other, 15 % of the answers are mistyped (one digit, or one letter where there is no
digit) and 35 % stand in chatter. No demonstrator answers something unrelated to the request: that was seen
to ruin the model.
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
    """What a simulated demonstrator wrote, and which of the two habits showed in it."""

    text: str
    mistyped: bool
    chatter: bool


def demonstrate(answer: str, rng: random.Random) -> Demonstration:
    """A simulated demonstrator's way to write `answer`."""
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
