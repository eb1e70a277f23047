"""Documents for pretraining: .txt, .jsonl, .json, .parquet, .csv or .tsv, each also .gz, or a hub data set.

A document is a Group without a prompt and with one completion. A .txt file is one document unless `separator`
cuts it. Left out: quality filters and deduplication, which should be done to a corpus before it is read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tropism.formats._messages import string
from tropism.formats._pieces import Fields, Lines, Piece, documents
from tropism.formats._source import Source
from tropism.types import Completion, Group

__all__ = ["Text"]


@dataclass(frozen=True)
class Text(Source):
    """`separator` is the text between documents in a .txt ("\\n\\n"). Records have the field `text`."""

    separator: str = ""

    _fields: ClassVar[tuple[str, ...]] = ("text",)

    def _group(self, fields: Fields) -> Group:
        return Group(id="", prompt=(), completions=(Completion(string(fields, "text")),))

    def _txt(self, lines: Lines) -> Iterator[Piece]:
        for number, document in documents(lines, self.separator):
            yield "document", number, lambda document=document: {self.columns.get("text", "text"): document}
