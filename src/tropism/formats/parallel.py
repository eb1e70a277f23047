"""Sentences and their translations: two files in which lines of the same number belong together, plain or .gz.

    prompts          the source line as the user's message, the target line as the reference
    demonstrations   the same, with the target line as the completion
    documents        "source line \\n target line" as raw text: the text of the chat without its markers

A document has both sides because that helps a model that is trained from scratch: it learns both languages and which
sentences belong together, while documents in one language would leave the second part to the demonstrations. A model
trained only on documents can be evaluated with raw text: it continues after the source line. Two files of different
length are refused before a line is used, as all pairs after a missing line would be wrong. Left out: more than two
languages, several references a line, alignment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from tropism.errors import TropismError
from tropism.formats._messages import string
from tropism.formats._pieces import BrokenRecord, Fields, Lines, decode, intact, lines_of, opened
from tropism.formats._read import Record, find
from tropism.formats._source import Groups
from tropism.types import Completion, Group, Message

__all__ = ["Parallel"]


@dataclass(frozen=True)
class Parallel:
    """`source` and `target` are paths, relative to the current directory. `instruction` is put before the source line
    unchanged, so end it with a space or line break; its tokens are added to every prompt. `offset`: the number of pairs
    to leave out at the start. `limit`: the largest number of pairs, 0 for all. `on_error`: "stop" at a pair with an
    empty or unreadable side, or "skip" and count it."""

    source: str
    target: str
    part: Literal["prompts", "demonstrations", "documents"]
    instruction: str = ""
    offset: Annotated[int, Ge(0)] = 0
    limit: Annotated[int, Ge(0)] = 0
    on_error: Literal["stop", "skip"] = "stop"

    def groups(self) -> Groups:
        """The groups; they are read during the iteration."""
        return Groups(self._records, self._group, self.offset, self.limit, self.on_error == "skip", {})

    def files(self) -> list[Path]:
        """The source file and the target file. Raises TropismError if one is not there."""
        return [_one(self.source), _one(self.target)]

    def _records(self) -> Iterator[Record]:
        source, target = self.files()
        counts = [sum(1 for _ in _read(file)) for file in (source, target)]
        if counts[0] != counts[1]:
            raise TropismError(
                f"{source} has {counts[0]:,} lines and {target} has {counts[1]:,}: give two files whose lines belong "
                "together"
            )
        if not counts[0]:
            raise TropismError(f"{source} and {target} are empty: give files with one sentence on each line")
        for (number, said), (_, answered) in zip(_read(source), _read(target)):
            place = f"{source} and {target} line {number}"
            load = partial(_pair, said, answered)
            yield Record(f"{source.name}:{number}", f"{source.name}, {target.name}", place, load)

    def _group(self, fields: Fields) -> Group:
        said, answer = string(fields, "source").strip(), string(fields, "target").strip()
        asked = self.instruction + said
        if self.part == "documents":
            return Group(id="", prompt=(), completions=(Completion(f"{asked}\n{answer}"),), meta={"about": said})
        shown = (Completion(answer),) if self.part == "demonstrations" else ()
        return Group(id="", prompt=(Message("user", asked),), completions=shown, target=answer)


def _one(path: str) -> Path:
    found = find((path,))
    if len(found) > 1:
        raise TropismError(f"{path} names {len(found)} files, but each side is one file: name one")
    return found[0]


def _read(file: Path) -> Lines:
    with intact(file), opened(file) as lines:
        yield from lines_of(lines)


def _pair(source: bytes, target: bytes) -> Fields:
    return {"source": _text(source, "source"), "target": _text(target, "target")}


def _text(raw: bytes, side: str) -> str:
    try:
        return decode(raw)
    except BrokenRecord as error:
        raise BrokenRecord(f"field '{side}' {error.problem}", error.remedy) from None
