"""Thumbs up or down: one answer and whether it was liked, without an answer to compare it with (KTO, arXiv 2402.01306).

A record has `label` (true: up, false: down) and either a conversation in a shape that `chat` reads, whose last turn is
the answer, or `completion` (a text, or one assistant message, alone or in a list) beside its prompt: the unpaired
preferences of TRL. The Group has that one completion and a Judgment of 1 or 0, of scale ordinal. Left out: labels
written as numbers or words, because 0 may mean "bad" or "not rated".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tropism.formats._messages import prompt, shape, string, turn, turns
from tropism.formats._read import BrokenRecord, Fields, kind_of
from tropism.formats.chat import Chat
from tropism.types import Completion, Group, Judgment

__all__ = ["Thumbs"]


@dataclass(frozen=True)
class Thumbs(Chat):
    """A label of a conversation is about its last turn, which must be the assistant's."""

    def _group(self, fields: Fields) -> Group:
        if "completion" in fields or shape(fields) is None:
            answer = _answer(fields)
            group = Group(id="", prompt=prompt(fields), completions=(Completion(answer),))
        else:
            group = replace(super()._group(fields), target=None)  # the answer may be a bad one
        return replace(group, judgments=(Judgment(judge="thumbs", scores=(_score(fields),), scale="ordinal"),))


def _answer(fields: Fields) -> str:
    value: Any = fields.get("completion")
    if not isinstance(value, (dict, list)):
        return string(fields, "completion")
    said = (turn(value, "completion"),) if isinstance(value, dict) else turns(value, "completion")
    if [message.role for message in said] != ["assistant"]:
        raise BrokenRecord("field 'completion' is not one assistant turn", "put earlier turns into the prompt")
    return said[0].content


def _score(fields: Fields) -> float:
    label = fields.get("label")
    if label is None:
        raise BrokenRecord("field 'label' is missing", "add it")
    if not isinstance(label, bool):
        raise BrokenRecord(f"field 'label' is {kind_of(label)}, not true or false", "write true or false")
    return float(label)
