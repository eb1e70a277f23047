"""Prompts for sampling: a .txt with one prompt on each line, records, or a list in the recipe.

A record has `prompt` (a text or messages) or a conversation in a shape that `chat` reads. The `target` is the field
`target`, or else the last answer of the conversation, if there is one. A field `id` becomes the id of the Group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tropism.formats._messages import FIELDS, Messages, conversation, prompt, question, shape, string
from tropism.formats._pieces import Fields, Lines, Piece, decode
from tropism.formats._read import Record
from tropism.formats._source import Source
from tropism.types import Group

__all__ = ["Prompts"]


@dataclass(frozen=True)
class Prompts(Source):
    """Groups without completions. `prompts` lists them in the recipe, instead of `path` or `hub`."""

    prompts: tuple[str, ...] = ()

    _fields: ClassVar[tuple[str, ...]] = (*FIELDS, "target", "id")
    _where: ClassVar[tuple[str, ...]] = ("path", "hub", "prompts")

    def files(self) -> list[Path]:
        """The local files it reads; none for prompts in the recipe."""
        return [] if self.prompts else super().files()

    def _records(self) -> Iterator[Record]:
        if not self.prompts:
            return super()._records()
        return (
            Record(
                f"prompts:{n + 1}",
                "recipe",
                f"prompts[{n}]",
                lambda text=text: {self.columns.get("prompt", "prompt"): text},
            )
            for n, text in enumerate(self.prompts)
        )

    def _group(self, fields: Fields) -> Group:
        asked, target = _asked(fields)
        if "target" in fields:
            target = string(fields, "target")
        given = fields.get("id")
        identity = str(given) if type(given) is int else string(fields, "id") if given is not None else ""
        return Group(id=identity, prompt=asked, target=target)

    def _txt(self, lines: Lines) -> Iterator[Piece]:
        for number, raw in lines:
            if raw.strip():
                yield "line", number, lambda raw=raw: {self.columns.get("prompt", "prompt"): decode(raw).rstrip("\n")}


def _asked(fields: Fields) -> tuple[Messages, str | None]:
    """The prompt, and the answer to it in the record, if there is one."""
    key = shape(fields)
    if "prompt" in fields or key is None:
        return prompt(fields), None
    turns = conversation(fields)
    if turns[-1].role != "assistant":
        return turns, None
    return question(turns[:-1], key), turns[-1].content
