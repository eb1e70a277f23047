"""The content of a group as one number, its mark: splits data by content, and finds prompts that were trained on.

The mark of a prompt is a hash of its messages, roles included. The mark of a document (a group without a prompt) is a
hash of its subject, `meta["about"]`, if the format gives one, or else of its text. Before hashing, texts get Unicode's
form NFC and every run of white space becomes one blank, so a trailing blank makes no difference. Every split is a
threshold on this number: the same prompt is on the same side in every stage and data set, and a larger share only adds
to what is held out.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from tropism.types import Group


def normal(text: str) -> str:
    """The text in the form that is compared: NFC, every run of white space one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def mark(group: Group) -> int:
    """A 64-bit hash of the prompt or, if there is none, of the document."""
    said = [(m.role, m.content) for m in group.prompt]
    if not said:
        about = group.meta.get("about")
        said = [("about", about)] if about else [("document", c.text) for c in group.completions]
    return _hash("\x00".join(f"{role}\x01{normal(content)}" for role, content in said))


def side(group: Group, share: float) -> Literal["train", "test"]:
    """`test` for a `share` of all possible contents. A document with `meta["about"]` None is always in training."""
    if not group.prompt and group.meta.get("about", "") is None:
        return "train"
    return "test" if (mark(group) >> 11) / 2**53 < share else "train"


def learned(group: Group) -> Iterator[int]:
    """The marks of all that a model can learn from a group: each prompt with an answer, each line of a document."""
    if not group.prompt:
        yield from (mark for c in group.completions for mark in lines(c.text))
        return
    yield mark(group)
    for i, message in enumerate(group.prompt):
        if i and message.role == "assistant":
            yield mark(replace(group, prompt=group.prompt[:i]))


def lines(text: str) -> list[int]:
    """A mark for each line that is not blank."""
    return [_hash(f"line\x01{said}") for line in text.split("\n") if (said := normal(line))]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
