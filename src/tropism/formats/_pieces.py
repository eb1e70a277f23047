"""Reads a file piece by piece: lines of .jsonl, records of .json, rows of .parquet, .csv and .tsv, parts of .txt as a
format cuts them; each also as .gz.

The content (an array, or one object a line) decides between `.json` and `.jsonl`, because published files mix the
names. The first line of a .csv or .tsv names the columns. A cell is a text; an empty one is null. A cell may be quoted
(RFC 4180: '"' is doubled inside); any other use of quotes is an error. Left out: other separators, zip and zstd
archives.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
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
    """A broken record, which can be skipped. It says what is wrong and what to do; the reader adds where."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem, self.remedy = problem, remedy


def pieces(path: Path, txt: Txt | None) -> Iterator[Piece]:
    """The pieces of a file; `txt` cuts a .txt. Raises TropismError if the file is damaged or cannot be read."""
    with intact(path):
        if suffix(path) == ".parquet":
            yield from _parquet(path)
            return
        with opened(path) as file:
            if suffix(path) in SEPARATORS:
                yield from _table(lines_of(file), path)
                return
            yield from txt(lines_of(file)) if txt and suffix(path) == ".txt" else _json(lines_of(file), path)


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
    cut = not raw.endswith(b"\n")  # only the last line can lack its line end: then it may have been cut
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        if not cut or error.reason != "unexpected end of data":
            raise BrokenRecord(f"is not UTF-8 ({_byte(error)})", "convert it to UTF-8") from None
    except (ValueError, RecursionError) as error:
        if not cut:
            raise BrokenRecord(f"is not a JSON object ({error})", "write one object a line, fix it") from None
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
    csv.field_size_limit(2**31 - 1)  # for the whole process; the default is 131,072 characters
    rows = csv.reader(
        (raw.decode("utf-8", "surrogateescape") for _, raw in lines), delimiter=SEPARATORS[suffix(path)], strict=True
    )
    header: list[str] = []
    while True:
        number = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise TropismError(f"{path} line {number} is damaged or cut short ({error}): fix its quotes") from None
        if row is None:
            return
        if header and row:
            yield "line", number, partial(_cells, header, row)
        elif row:
            header = [name.strip() for name in row]
            if len(set(header)) < len(header) or "" in header:
                raise TropismError(f"{path} line {number} must name each column, without repeats: fix it")


def _cells(header: list[str], row: list[str]) -> Fields:
    if len(row) != len(header):
        raise BrokenRecord(f"has {len(row)} cells for {len(header)} columns", "fix its separators or quotes")
    decode("".join(row).encode("utf-8", "surrogateescape"))
    return {name: cell.replace("\r\n", "\n") or None for name, cell in zip(header, row)}


def _parquet(path: Path) -> Iterator[Piece]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    source: Path | io.BytesIO = path
    if path.suffix.lower() == ".gz":  # reading Parquet begins at the end, where a gzip stream cannot jump to
        with opened(path) as file:
            source = io.BytesIO(file.read())
    if not (source.getbuffer().nbytes if isinstance(source, io.BytesIO) else path.stat().st_size):
        return
    number = 0
    try:
        # Without these options pyarrow keeps all row groups, or at least one, in memory at once.
        streamed = {"pre_buffer": False, "buffer_size": 2**20}
        with ParquetFile(source, page_checksum_verification=True, **streamed) as parquet:
            for batch in parquet.iter_batches(batch_size=1024):
                for i in range(batch.num_rows):
                    number += 1
                    yield "row", number, partial(_row, batch, i)
    except ArrowException as error:
        raise TropismError(f"{path} is cut short or damaged ({sentence(error)}): {FETCH}") from None


def _row(batch: Any, i: int) -> Any:
    try:
        return batch.slice(i, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
        raise BrokenRecord(f"is not UTF-8 ({_byte(error)})", "convert it to UTF-8") from None


def decode(raw: bytes) -> str:
    """UTF-8 with line ends as \\n. Raises BrokenRecord."""
    try:
        return raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BrokenRecord(f"is not UTF-8 ({_byte(error)})", "convert it to UTF-8") from None


def documents(lines: Lines, separator: str) -> Iterator[tuple[int, str]]:
    """The non-blank texts between separators, numbered from 1; without a separator the whole file is one text."""
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


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Turns the errors of a damaged, cut or unreadable file into one sentence."""
    try:
        yield
    except BrokenRecord as error:  # raised before there is a record: in a file that is one document
        raise TropismError(f"{path} {error.problem}: {error.remedy}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TropismError(f"{path} is cut short or damaged ({sentence(error)}): {FETCH}") from None
    except OSError as error:
        if error.errno is None:  # pyarrow's readers
            raise TropismError(f"{path} is cut short or damaged ({sentence(error)}): {FETCH}") from None
        raise TropismError(f"{path} cannot be read ({error.strerror}): make it a readable file") from None


def opened(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked if it is a .gz."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def lines_of(file: IO[bytes]) -> Lines:
    """Numbered, without a byte order mark."""
    for number, raw in enumerate(file, 1):
        yield number, raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw


def suffix(path: Path) -> str:
    """The suffix in lower case, without .gz: `.jsonl` for `x.jsonl.gz`."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def sentence(error: Exception) -> str:
    """The text of an error, in one line."""
    return " ".join(str(error).split()).rstrip(".")


def _byte(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02x}"
