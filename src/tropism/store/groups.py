"""Groups as files: Parquet, which any program that reads Parquet can read, or JSON lines with one group a line."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from tropism.errors import TropismError
from tropism.store import files
from tropism.store.plain import group_from_json, to_json
from tropism.types import Group

T = TypeVar("T")
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "completions": pa.list_(
            pa.struct(
                {
                    "text": pa.string(),
                    "tokens": pa.list_(pa.int32()),
                    "sampled": pa.list_(pa.bool_()),
                    "logprobs": pa.list_(pa.float64()),
                    "finish_reason": pa.string(),
                    "policy": pa.string(),
                    "tokenizer": pa.string(),
                    "cost": pa.float64(),
                }
            )
        ),
        "judgments": pa.list_(
            pa.struct(
                {
                    "judge": pa.string(),
                    "scores": pa.list_(pa.float64()),
                    "scale": pa.string(),
                    "rationale": pa.string(),
                    "shown": pa.list_(pa.int32()),
                    "tokens": pa.int64(),
                    "steps": pa.list_(pa.list_(pa.struct({"end": pa.int32(), "reward": pa.float64()}))),
                }
            )
        ),
        "target": pa.string(),
        "meta": pa.string(),  # JSON
    }
)
GROUPS_FILE = "groups.parquet"
ROWS = 1024  # of a row group: what is in memory while a file is written or read


def write_groups(groups: Iterable[Group], path: Path) -> None:
    """One Parquet file."""
    write_table(map(group_table, batches(groups, ROWS)), path, SCHEMA)


def group_table(groups: Sequence[Group]) -> pa.Table:
    """Groups as rows of SCHEMA."""
    rows = [{**to_json(g), "meta": json.dumps(to_json(g.meta), ensure_ascii=False)} for g in groups]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write_table(tables: Iterable[pa.Table], path: Path, schema: pa.Schema) -> None:
    """One Parquet file with the rows of all tables. Its bytes depend on the rows alone, not on the tables they came in."""
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        waiting = schema.empty_table()
        for table in tables:
            waiting = pa.concat_tables([waiting, table])
            while len(waiting) >= ROWS:
                file.write_table(waiting.slice(0, ROWS).combine_chunks())
                waiting = waiting.slice(ROWS)
        if len(waiting):
            file.write_table(waiting.combine_chunks())


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    left = iter(items)
    while some := list(itertools.islice(left, size)):
        yield some


def refuse_out(path: Path, force: bool, endings: Sequence[str] = (".jsonl", ".parquet")) -> None:
    """Raises TropismError unless a file may be written there: with one of the endings, and new or `force`d."""
    if path.is_dir():
        raise TropismError(f"{path} is a folder: name a file in it that ends in {' or '.join(endings)}")
    if not path.name.endswith(tuple(endings)):
        raise TropismError(f"{path} ends in neither {' nor '.join(endings)}: name such a file")
    if path.exists() and not force:
        raise TropismError(f"{path} exists: name another file, or give --force to replace it")
    with files.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.part(path).touch()
        files.part(path).unlink()


def save_groups(groups: Iterable[Group], path: Path) -> int:
    """A file by its ending, whole or not at all; how many groups are in it."""
    count = itertools.count()
    counted = (group for group, _ in zip(groups, count))
    with files.whole(path) as part:
        if path.suffix == ".parquet":
            write_groups(counted, part)
        else:
            with open(part, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(to_json(g), ensure_ascii=False) + "\n" for g in counted)
    return next(count)


def load_groups(path: Path) -> Iterator[Group]:
    """The groups of a file that `save_groups` may have written, or of a stage's folder. Raises TropismError."""
    if path.suffix != ".jsonl":
        yield from read_groups(path)
        return
    if not path.is_file():
        raise TropismError(f"there is no file {path} (looked for it from {Path.cwd()}): mend the path")
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield group_from_json(line)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                raise TropismError(
                    f"{path} line {number} is not a group ({error!r}): write a group as `tropism feedback export` does, or "
                    "say with --format which data format it is"
                ) from None


def read_groups(path: str | Path) -> Iterator[Group]:
    """The groups of a Parquet file, or of the `groups.parquet` in a folder."""
    file = _file(path)
    with _explained(file):
        table = pq.ParquetFile(file)
        for chunk in table.iter_batches(batch_size=ROWS):
            for row in chunk.to_pylist():
                yield group_from_json({**row, "meta": json.loads(row["meta"])})


def size(path: str | Path) -> int:
    """The number of groups that `read_groups` reads."""
    with _explained(_file(path)):
        return pq.read_metadata(_file(path)).num_rows


def _file(path: str | Path) -> Path:
    return Path(path) / GROUPS_FILE if Path(path).is_dir() else Path(path)


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise TropismError(f"there are no groups at {file}: name a stage that makes groups, or its folder") from None
    except (KeyError, TypeError):
        raise TropismError(f"{file} does not hold groups: name a stage that makes groups, or its folder") from None
    except (pa.ArrowException, OSError) as error:
        raise TropismError(f"{file} is damaged or not a Parquet file ({error}): delete it and run again") from None
