"""Raw text for pretraining: a glossary entry, one phrase in each language, the languages in random order.

    French: dans 26 jours
    English: in 26 days
    Malay: dalam 26 hari
    Russian: через 26 дней

It has no held-out phrases, except names: nobody can guess that "Perancis" is Malay for France.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tropism.phrasebook.phrases import LANGUAGES, NAMES, Phrase, phrase


def documents(rng: random.Random) -> Iterator[tuple[Phrase, str]]:
    """Endless (phrase, document) pairs; a document is four lines without a line break at its end."""
    while True:
        drawn = phrase(rng)
        if drawn.held_out and drawn.kind not in NAMES:
            continue
        order = rng.sample(list(LANGUAGES), len(LANGUAGES))
        yield drawn, "\n".join(f"{language}: {drawn.texts[language]}" for language in order)
