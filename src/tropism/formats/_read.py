"""Files and hub data sets → Records, one at a time: .txt, .jsonl, .json, .parquet, .csv and .tsv, each also as .gz.

Contract: a jsonl or parquet file is never held in memory as a whole (a JSON array, a .parquet.gz and a .txt
that is one document are). A record that can be left out raises BrokenRecord from its own `load`; a file that
is empty, cut short or damaged raises TropismError and stops the reading in any case. Nothing is ever
written, but for the cache of `datasets`.
`.json` and `.jsonl` are told apart by content (an array, or one object a line), because published files mix
the names. A .csv or .tsv has a first line of names; a cell is a text, an empty one is null, and a cell may be quoted
(RFC 4180: '"' doubled inside), with whatever else quotes hold refused. Left out: other separators, zip and zstd archives.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from tropism.errors import TropismError

Fields = Mapping[str, Any]
Lines = Iterator[tuple[int, bytes]]  # (number from 1, bytes with their line end)
Piece = tuple[str, int, Callable[[], Any]]  # (line, record, row or document; its number from 1; its loader)
Txt = Callable[[Lines], Iterable[Piece]]  # how a format cuts a .txt into pieces

SEPARATORS = {".csv": ",", ".tsv": "\t"}
FETCH = "write or fetch it again"


class BrokenRecord(TropismError):
    """A record that can be left out. Says what is wrong and the remedy; the reader adds where."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem, self.remedy = problem, remedy


@dataclass(frozen=True, slots=True)
class Record:
    """One record, not parsed yet: `load()` gives its value or raises BrokenRecord."""

    id: str
    source: str  # file name, or hub id and split
    place: str  # for messages: "data/x.jsonl line 17"
    load: Callable[[], Any]


def find(patterns: Sequence[str]) -> list[Path]:
    """The files that paths and globs name, in order, each once. Naming none is an error."""
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
                raise TropismError(f"no file matches {pattern} (looked for it from {Path.cwd()}): mend the pattern")
        else:
            raise TropismError(f"there is no file {pattern} (looked for it from {Path.cwd()}): mend the path")
        for match in matches:
            found.setdefault(match.resolve(), match)
    return list(found.values())


def read_files(paths: Sequence[Path], txt: Txt | None) -> Iterator[Record]:
    """The records of the files, one after the other; suffixes are checked first, `txt` None refuses .txt."""
    known = (".jsonl", ".json", ".parquet", *SEPARATORS) + ((".txt",) if txt else ())
    for path in paths:
        if _suffix(path) not in known:
            raise TropismError(f"{path} is not a {', '.join(known)} file (or one of them with .gz): convert it")
    for path, name in zip(paths, _names(paths)):
        empty = True
        for unit, number, load in _pieces(path, txt):
            empty = False
            yield Record(f"{name}:{number}", name, f"{path} {unit} {number}", load)
        if empty:
            raise TropismError(f"{path} is empty: give a file with records or leave it out")


def read_hub(hub: str, subset: str, split: str, streaming: bool) -> Iterator[Record]:
    """The rows of a Hugging Face data set (or of a local folder of data files, or one that its `save_to_disk` wrote)."""
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
    except Exception as error:  # `datasets` raises whatever its readers and its network raise
        while isinstance(error.__cause__, Exception):
            error = error.__cause__
        reason = _sentence(error) or type(error).__name__
        raise TropismError(
            f"the data set {name} cannot be read ({reason}): check hub, subset, split and the network"
        ) from None
    if not number:
        raise TropismError(f"the data set {name} is empty: choose another split")


def fields_of(record: Record, columns: Mapping[str, str]) -> Fields:
    """The fields of a record, those named in `columns` under the name there, nulls left out. Raises BrokenRecord."""
    value = record.load()
    if not isinstance(value, Mapping):
        raise BrokenRecord(f"is {kind_of(value)}, not an object with fields", "mend it")
    for field, column in columns.items():
        if column not in value:
            has = ", ".join(map(repr, value)) or "none"
            raise BrokenRecord(f"has no field {column!r} (its fields: {has})", f"mend columns.{field}")
    if columns:
        others = {key: item for key, item in value.items() if key not in columns.values()}
        value = others | {field: value[column] for field, column in columns.items()}
    return {key: item for key, item in value.items() if item is not None}


def decode(raw: bytes) -> str:
    """UTF-8 with line ends as \\n. Raises BrokenRecord."""
    try:
        return raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BrokenRecord(f"is not UTF-8 ({_byte(error)})", "convert it to UTF-8") from None


def documents(lines: Lines, separator: str) -> Iterator[tuple[int, str]]:
    """The non-blank texts between separators, numbered from 1; without a separator everything is one text."""
    buffer, number = "", 0
    for line, raw in lines:
        try:
            text = decode(raw)
        except BrokenRecord as error:
            raise BrokenRecord(f"line {line} {error.problem}", error.remedy) from None
        searched = max(0, len(buffer) - len(separator) + 1)  # a separator may span two lines
        buffer += text
        if separator and buffer.find(separator, searched) >= 0:
            *ended, buffer = buffer.split(separator)
            for document in ended:
                if document.strip():
                    number += 1
                    yield number, document.strip("\n")
    if buffer.strip():
        yield number + 1, buffer.strip("\n") if separator else buffer


def _pieces(path: Path, txt: Txt | None) -> Iterator[Piece]:
    with _whole(path):
        if _suffix(path) == ".parquet":
            yield from _parquet(path)
            return
        with _open(path) as file:
            if _suffix(path) in SEPARATORS:
                yield from _table(_lines(file), path)
                return
            yield from txt(_lines(file)) if txt and _suffix(path) == ".txt" else _json(_lines(file), path)


def _json(lines: Lines, path: Path) -> Iterator[Piece]:
    first = next(((number, raw) for number, raw in lines if raw.strip()), None)
    if first is None:
        return
    number, raw = first
    if raw.lstrip().startswith(b"["):
        whole = b"\n" * (number - 1) + raw + b"".join(rest for _, rest in lines)
        for position, item in enumerate(_array(whole, path), 1):
            yield "record", position, lambda item=item: item
        return
    yield "line", number, partial(_json_line, raw, path, number)
    for number, raw in lines:
        if raw.strip():
            yield "line", number, partial(_json_line, raw, path, number)


def _json_line(raw: bytes, path: Path, number: int) -> Any:
    cut = not raw.endswith(b"\n")  # true of the last line only, which a writer ends like the others
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        if not cut or error.reason != "unexpected end of data":
            raise BrokenRecord(f"is not UTF-8 ({_byte(error)})", "convert it to UTF-8") from None
    except (ValueError, RecursionError) as error:
        if not cut:
            raise BrokenRecord(f"is not a JSON object ({error})", "write one object a line, mend it") from None
    raise TropismError(f"{path} is cut short or damaged in its last line, {number}: {FETCH}")


def _array(whole: bytes, path: Path) -> list[Any]:
    try:
        return json.loads(whole.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = whole.count(b"\n", 0, error.start) + 1
        raise TropismError(f"{path} line {line} is not UTF-8 ({_byte(error)}): convert the file to UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise TropismError(f"{path} is cut short or damaged, not a JSON array ({error}): {FETCH}") from None


def _table(lines: Lines, path: Path) -> Iterator[Piece]:
    csv.field_size_limit(2**31 - 1)  # of the whole process; 131,072 signs otherwise
    rows = csv.reader(
        (raw.decode("utf-8", "surrogateescape") for _, raw in lines), delimiter=SEPARATORS[_suffix(path)], strict=True
    )
    header: list[str] = []
    while True:
        number = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise TropismError(f"{path} line {number} is damaged or cut short ({error}): mend its quotes") from None
        if row is None:
            return
        if header and row:
            yield "line", number, partial(_cells, header, row)
        elif row:
            header = [name.strip() for name in row]
            if len(set(header)) < len(header) or "" in header:
                raise TropismError(f"{path} line {number} must name each column, no two alike: mend it")


def _cells(header: list[str], row: list[str]) -> Fields:
    if len(row) != len(header):
        raise BrokenRecord(f"has {len(row)} cells for {len(header)} columns", "mend its separators or quotes")
    decode("".join(row).encode("utf-8", "surrogateescape"))
    return {name: cell.replace("\r\n", "\n") or None for name, cell in zip(header, row)}


def _parquet(path: Path) -> Iterator[Piece]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    source: Path | io.BytesIO = path
    if path.suffix.lower() == ".gz":  # parquet is read from its end, which a gzip stream cannot jump to
        with _open(path) as file:
            source = io.BytesIO(file.read())
    if not (source.getbuffer().nbytes if isinstance(source, io.BytesIO) else path.stat().st_size):
        return
    number = 0
    try:
        # Without these pyarrow holds all row groups, or at least one, in memory at once.
        streamed = {"pre_buffer": False, "buffer_size": 2**20}
        with ParquetFile(source, page_checksum_verification=True, **streamed) as parquet:
            for batch in parquet.iter_batches(batch_size=1024):
                for i in range(batch.num_rows):
                    number += 1
                    yield "row", number, partial(_row, batch, i)
    except ArrowException as error:
        raise TropismError(f"{path} is cut short or damaged ({_sentence(error)}): {FETCH}") from None


def _row(batch: Any, i: int) -> Any:
    try:
        return batch.slice(i, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
        raise BrokenRecord(f"is not UTF-8 ({_byte(error)})", "convert it to UTF-8") from None


def kind_of(value: Any) -> str:
    """A JSON value's kind, for messages."""
    kinds = {int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return "null" if value is None else kinds.get(type(value), f"of the type {type(value).__name__}")


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turns what a damaged, cut or unreadable file raises into one sentence."""
    try:
        yield
    except BrokenRecord as error:  # raised before there is a record: in a text that is one document
        raise TropismError(f"{path} {error.problem}: {error.remedy}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TropismError(f"{path} is cut short or damaged ({_sentence(error)}): {FETCH}") from None
    except OSError as error:
        if error.errno is None:  # pyarrow's readers
            raise TropismError(f"{path} is cut short or damaged ({_sentence(error)}): {FETCH}") from None
        raise TropismError(f"{path} cannot be read ({error.strerror}): make it a readable file") from None


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _lines(file: IO[bytes]) -> Lines:
    for number, raw in enumerate(file, 1):
        yield number, raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _names(paths: Sequence[Path]) -> list[str]:
    """File names; with the folders below the common one where two names are equal, so that ids are unique."""
    if len({path.name for path in paths}) == len(paths):
        return [path.name for path in paths]
    full = [path.resolve() for path in paths]
    shared = os.path.commonpath([path.parent for path in full])
    return [path.relative_to(shared).as_posix() for path in full]


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _byte(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02x}"
