"""Ranked answers: K answers to one prompt, in the form of Nectar (berkeley-nest/Nectar; OpenReview GqDntYTTbk).

A record has `prompt` (a text, an HH string or messages) or a conversation in a shape that `chat` reads, and
`answers`, a list of {answer, rank, model}: rank 1 is the best, equal ranks are ties, no rank means "not judged".
Scores are -rank, of scale ordinal. Left out: answers with ratings instead of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tropism.formats._messages import FIELDS, prompt, string
from tropism.formats._pieces import BrokenRecord, Fields
from tropism.formats._read import kind_of
from tropism.formats._source import Source
from tropism.types import Completion, Group, Judgment

__all__ = ["Ranked"]


@dataclass(frozen=True)
class Ranked(Source):
    """A record needs two different answers and two ranks; otherwise it compares nothing."""

    _fields: ClassVar[tuple[str, ...]] = (*FIELDS, "answers")

    def _group(self, fields: Fields) -> Group:
        return ranking(fields)


def ranking(fields: Fields) -> Group:
    """The group of a record with `prompt` and `answers`. Raises BrokenRecord."""
    answers = fields.get("answers")
    if not isinstance(answers, list):
        what = "missing" if answers is None else f"{kind_of(answers)}, not a list"
        raise BrokenRecord(f"field 'answers' is {what}", "write [{answer, rank}, ...]")
    completions = tuple(_completion(item, f"answers[{i}]") for i, item in enumerate(answers))
    scores = tuple(_score(item, f"answers[{i}].rank") for i, item in enumerate(answers))
    if len({completion.text.strip() for completion in completions}) < 2:
        raise BrokenRecord("field 'answers' has fewer than two different answers", "add some or remove the record")
    if sum(score is not None for score in scores) < 2:
        raise BrokenRecord("field 'answers' has fewer than two ranks", "add them or remove the record")
    judgment = Judgment(judge="ranked", scores=scores, scale="ordinal")
    return Group(id="", prompt=prompt(fields), completions=completions, judgments=(judgment,))


def _completion(item: Any, key: str) -> Completion:
    if not isinstance(item, Mapping):
        raise BrokenRecord(f"field '{key}' is {kind_of(item)}, not an object", "write {answer, rank}")
    policy = string(item, "model", f"{key}.") if item.get("model") else ""
    return Completion(string(item, "answer", f"{key}."), policy=policy)


def _score(item: Mapping[str, Any], key: str) -> float | None:
    rank = item.get("rank")
    if rank is None:
        return None
    if isinstance(rank, bool) or not isinstance(rank, (int, float)) or not math.isfinite(rank):
        raise BrokenRecord(f"field '{key}' = {rank!r} is not a finite number", "write a number, or null for no rank")
    return -float(rank)
