"""Conversations for supervised fine-tuning: OpenAI, ShareGPT, Alpaca, Dolly and TRL records.

The keys of each record show its shape: `messages`, `conversations`, `instruction`, or `prompt` with `completion`. The
prompt of the Group is every turn before the last answer; that answer is its one completion and its `target`. The sft
stage trains the earlier answers in the prompt as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tropism.formats._messages import FIELDS, completion, conversation, prompt, question, shape
from tropism.formats._pieces import BrokenRecord, Fields
from tropism.formats._source import Source
from tropism.types import Completion, Group

__all__ = ["Chat"]


@dataclass(frozen=True)
class Chat(Source):
    """A conversation must end with an assistant turn."""

    _fields: ClassVar[tuple[str, ...]] = (*FIELDS, "completion")

    def _group(self, fields: Fields) -> Group:
        return exchange(fields)


def exchange(fields: Fields) -> Group:
    """The group of a conversation. Raises BrokenRecord."""
    if shape(fields) is None and "completion" in fields:
        *before, answer = *prompt(fields), *completion(fields)
        return Group(id="", prompt=tuple(before), completions=(Completion(answer.content),), target=answer.content)
    turns, key = conversation(fields), str(shape(fields))
    if turns[-1].role != "assistant":
        if key == "instruction":
            raise BrokenRecord(f"field 'output' is {'empty' if 'output' in fields else 'missing'}", "add it")
        raise BrokenRecord(f"field '{key}' ends with a {turns[-1].role} turn", "end it with an assistant turn")
    *before, answer = turns
    before = question(tuple(before), key)
    return Group(id="", prompt=before, completions=(Completion(answer.content),), target=answer.content)
