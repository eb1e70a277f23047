"""Thumbs up or down: one answer and whether it was liked, without an answer to compare it with (KTO, arXiv 2402.01306).

A record has `label` (true: up, false: down). It also has either a conversation in a shape that `chat` reads, whose last
turn is the answer, or `prompt` and `completion` (a text, or one assistant message, alone or in a list), like the
unpaired preferences of TRL. The Group has that one completion and a Judgment of 1 or 0, of scale ordinal. Left out:
labels that are numbers or other words, because 0 may mean "bad" or "not rated".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tropism.formats._messages import completion, prompt, shape
from tropism.formats._pieces import BrokenRecord, Fields
from tropism.formats._read import kind_of
from tropism.formats.chat import Chat
from tropism.types import Completion, Group, Judgment

__all__ = ["Thumbs"]


@dataclass(frozen=True)
class Thumbs(Chat):
    """The label of a conversation is for its last turn, which must be the assistant's."""

    _fields: ClassVar[tuple[str, ...]] = (*Chat._fields, "label")

    def _group(self, fields: Fields) -> Group:
        if "completion" in fields or shape(fields) is None:
            answer = _answer(fields)
            group = Group(id="", prompt=prompt(fields), completions=(Completion(answer),))
        else:
            group = replace(super()._group(fields), target=None)  # the answer may be a bad one
        return replace(group, judgments=(Judgment(judge="thumbs", scores=(_score(fields),)),))


def _answer(fields: Fields) -> str:
    *earlier, answer = completion(fields)
    if earlier:
        raise BrokenRecord("field 'completion' is not one assistant turn", "put earlier turns into the prompt")
    return answer.content


def _score(fields: Fields) -> float:
    label: Any = fields.get("label")
    if isinstance(label, str) and label.lower() in ("true", "false"):  # a cell of a .csv
        label = label.lower() == "true"
    if label is None:
        raise BrokenRecord("field 'label' is missing", "add it")
    if not isinstance(label, bool):
        raise BrokenRecord(f"field 'label' is {kind_of(label)}, not true or false", "write true or false")
    return float(label)
