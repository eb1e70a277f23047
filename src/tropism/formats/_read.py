"""Files and hub data sets → Records, one at a time: .txt, .jsonl, .json, .parquet, .csv and .tsv, each also as .gz.

Contract: a .jsonl or .parquet file is never in memory as a whole (a JSON array, a .parquet.gz and a .txt of
one document are). For a broken record, which can be skipped, `load` raises BrokenRecord. A file that is empty,
cut short or damaged raises TropismError and always stops the reading. Nothing is written, except the cache of
`datasets`. `_pieces.py` cuts a file into pieces.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tropism.errors import TropismError
from tropism.formats._pieces import SEPARATORS, BrokenRecord, Fields, Txt, pieces, sentence, suffix


@dataclass(frozen=True, slots=True)
class Record:
    """One record, not parsed yet: `load()` returns its value or raises BrokenRecord."""

    id: str
    source: str  # file name, or hub id and split
    place: str  # for messages: "data/x.jsonl line 17"
    load: Callable[[], Any]


def find(patterns: Sequence[str]) -> list[Path]:
    """The files that paths and globs name, in order, each once. Raises TropismError for one that names no file."""
    found: dict[Path, Path] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            raise TropismError(
                f"{pattern} is a folder: name the files in it, such as {pattern.rstrip('/')}/*.jsonl, or give the folder "
                "that save_to_disk has written as hub"
            )
        if path.exists():
            matches = [path]
        elif any(sign in pattern for sign in "*?["):
            matches = sorted(match for match in map(Path, glob.glob(str(path), recursive=True)) if match.is_file())
            if not matches:
                raise TropismError(f"no file matches {pattern} (searched from {Path.cwd()}): fix the pattern")
        else:
            raise TropismError(f"there is no file {pattern} (searched from {Path.cwd()}): fix the path")
        for match in matches:
            found.setdefault(match.resolve(), match)
    return list(found.values())


def read_files(paths: Sequence[Path], txt: Txt | None) -> Iterator[Record]:
    """The records of the files, one after another. All suffixes are checked first; with `txt` None a .txt is
    refused."""
    known = (".jsonl", ".json", ".parquet", *SEPARATORS) + ((".txt",) if txt else ())
    for path in paths:
        if suffix(path) not in known:
            raise TropismError(f"{path} is not a {', '.join(known)} file (or one of them with .gz): convert it")
    for path, name in zip(paths, _names(paths)):
        empty = True
        for unit, number, load in pieces(path, txt):
            empty = False
            yield Record(f"{name}:{number}", name, f"{path} {unit} {number}", load)
        if empty:
            raise TropismError(f"{path} is empty: give a file with records or leave it out")


def read_hub(hub: str, subset: str, split: str, streaming: bool) -> Iterator[Record]:
    """The rows of a Hugging Face data set, of a local folder of data files, or of a folder written by
    `save_to_disk`."""
    import datasets  # takes a second to import, and most runs read files

    name = "/".join(part for part in (Path(hub).name if Path(hub).is_dir() else hub, subset, split) if part)
    number = 0
    try:
        if any((Path(hub) / name).is_file() for name in ("state.json", "dataset_dict.json")):
            saved = datasets.load_from_disk(hub)
            rows: Iterable[Any] = saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        else:
            rows = datasets.load_dataset(hub, subset or None, split=split, streaming=streaming)
        for row in rows:
            number += 1
            yield Record(f"{name}:{number}", name, f"{name} row {number}", lambda row=row: row)
    except Exception as error:  # `datasets` passes on any error of its readers and of the network
        while isinstance(error.__cause__, Exception):
            error = error.__cause__
        reason = sentence(error) or type(error).__name__
        raise TropismError(
            f"the data set {name} cannot be read ({reason}): check hub, subset, split and the network"
        ) from None
    if not number:
        raise TropismError(f"the data set {name} is empty: choose another split")


def fields_of(record: Record, columns: Mapping[str, str]) -> Fields:
    """The fields of a record without nulls, with columns renamed as `columns` says. Raises BrokenRecord."""
    value = record.load()
    if not isinstance(value, Mapping):
        raise BrokenRecord(f"is {kind_of(value)}, not an object with fields", "fix it")
    for field, column in columns.items():
        if column not in value:
            has = ", ".join(map(repr, value)) or "none"
            raise BrokenRecord(f"has no field {column!r} (its fields: {has})", f"fix columns.{field}")
    if columns:
        others = {key: item for key, item in value.items() if key not in columns.values()}
        value = others | {field: value[column] for field, column in columns.items()}
    return {key: item for key, item in value.items() if item is not None}


def kind_of(value: Any) -> str:
    """The kind of a JSON value, for messages."""
    kinds = {int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return "null" if value is None else kinds.get(type(value), f"of the type {type(value).__name__}")


def _names(paths: Sequence[Path]) -> list[str]:
    """File names. If two are equal, with the folders below the common one, so that ids are unique."""
    if len({path.name for path in paths}) == len(paths):
        return [path.name for path in paths]
    full = [path.resolve() for path in paths]
    shared = os.path.commonpath([path.parent for path in full])
    return [path.relative_to(shared).as_posix() for path in full]
