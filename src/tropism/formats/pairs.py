"""Preference pairs: a chosen and a rejected answer to one prompt.

`chosen` and `rejected` are texts, single messages, or message lists. The prompt is the field `prompt`, or a
conversation in a shape that `chat` reads (the ShareGPT and Alpaca preference shapes), or else the turns that
both share: message lists that begin with the prompt, and Anthropic's HH strings (arXiv 2204.05862). The Group
has two completions, the chosen one first, and a Judgment of scale ordinal. Left out: pairs that differ before
their last turn, because they do not answer the same prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tropism.formats._messages import (
    FIELDS,
    Messages,
    dialogue,
    prompt,
    question,
    shape,
    string,
    turn,
    turns,
)
from tropism.formats._pieces import BrokenRecord, Fields
from tropism.formats._source import Source
from tropism.types import Completion, Group, Judgment

__all__ = ["Pairs"]


@dataclass(frozen=True)
class Pairs(Source):
    """A pair with equal `chosen` and `rejected` compares nothing and is a broken record."""

    _fields: ClassVar[tuple[str, ...]] = (*FIELDS, "chosen", "rejected")

    def _group(self, fields: Fields) -> Group:
        before, chosen = _answer(fields, "chosen")
        beside, rejected = _answer(fields, "rejected")
        if before != beside:
            raise BrokenRecord(
                "fields 'chosen' and 'rejected' differ before their last turn", "give both the same prompt"
            )
        if chosen.strip() == rejected.strip():
            raise BrokenRecord("field 'chosen' equals field 'rejected'", "fix the pair or remove it")
        return Group(
            id="",
            prompt=_prompt(fields, before),
            completions=(Completion(chosen), Completion(rejected)),
            judgments=(Judgment(judge="pairs", scores=(1.0, 0.0), scale="ordinal"),),
        )


def _answer(fields: Fields, key: str) -> tuple[Messages, str]:
    """(the turns before the answer, if the field has them, the answer)."""
    value: Any = fields.get(key)
    if isinstance(value, dict):
        messages: Messages = (turn(value, key),)
    elif isinstance(value, list):
        messages = turns(value, key)
    elif "prompt" in fields or shape(fields):
        return (), string(fields, key)
    else:
        messages = dialogue(string(fields, key), key)
    if not messages or messages[-1].role != "assistant":
        raise BrokenRecord(f"field '{key}' does not end with an assistant turn", "add the answer")
    return messages[:-1], messages[-1].content


def _prompt(fields: Fields, shared: Messages) -> Messages:
    if not shared:
        return prompt(fields)
    if "prompt" in fields:
        asked = prompt(fields)
        if [m.content.strip() for m in shared[-len(asked) :]] != [m.content.strip() for m in asked]:
            raise BrokenRecord("field 'chosen' begins with another prompt than field 'prompt'", "make them agree")
    return question(shared, "chosen")
