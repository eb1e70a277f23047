"""What a group asks or says, as one number: who must not stand on both sides of a split, and whether a prompt was met.

The mark of a prompt is a hash of its messages, roles included; of a document (a group without a prompt) a hash of what it
is about, `meta["about"]`, where the format says so, or else of its text. Texts are compared in Unicode's form NFC with
every run of white space as one blank, so a trailing blank makes no other prompt. All shares are thresholds on this one
number: the same prompt is on the same side in every stage and data set, and a larger share only adds to what is held out.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from tropism.types import Group


def normal(text: str) -> str:
    """The text as it is compared: NFC, runs of white space as one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def mark(group: Group) -> int:
    """64 bits of what the group asks or, if it has no prompt, says."""
    said = [(m.role, m.content) for m in group.prompt]
    if not said:
        about = group.meta.get("about")
        said = [("about", about)] if about else [("document", c.text) for c in group.completions]
    return _hash("\x00".join(f"{role}\x01{normal(content)}" for role, content in said))


def side(group: Group, share: float) -> Literal["train", "test"]:
    """`test` for `share` of all there is to ask or say. A document about None (`meta["about"]`) is always in training."""
    if not group.prompt and group.meta.get("about", "") is None:
        return "train"
    return "test" if (mark(group) >> 11) / 2**53 < share else "train"


def learned(group: Group) -> Iterator[int]:
    """The marks of all that training on a group may teach: each prompt that an answer follows, each line of a document."""
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
