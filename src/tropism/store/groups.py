"""Groups as files: Parquet, which any program that reads Parquet can read, or JSON lines with one group a line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tropism.errors import TropismError
from tropism.store import files
from tropism.store.plain import group_from_json, to_json
from tropism.types import Group

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
AT_ONCE = 8192  # groups in memory while they are written


def write_groups(groups: Iterable[Group], path: Path) -> None:
    """One Parquet file."""
    left = iter(groups)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as file:
        while some := list(itertools.islice(left, AT_ONCE)):
            rows = [{**to_json(g), "meta": json.dumps(to_json(g.meta), ensure_ascii=False)} for g in some]
            file.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))


def refuse_out(path: Path, force: bool) -> None:
    """Raises TropismError unless `save_groups` may write there: a .jsonl or .parquet file, which is new or `force`d."""
    if path.is_dir():
        raise TropismError(f"{path} is a folder: name a file in it that ends in .jsonl or .parquet")
    if path.suffix not in (".jsonl", ".parquet"):
        raise TropismError(f"{path} ends in neither .jsonl nor .parquet: name such a file")
    if path.exists() and not force:
        raise TropismError(f"{path} exists: give another --out, or --force to replace it")
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
    file = Path(path)
    file = file / GROUPS_FILE if file.is_dir() else file
    try:
        table = pq.ParquetFile(file)
        for chunk in table.iter_batches(batch_size=1024):
            for row in chunk.to_pylist():
                yield group_from_json({**row, "meta": json.loads(row["meta"])})
    except FileNotFoundError:
        raise TropismError(f"there are no groups at {file}: name a stage that makes groups, or its folder") from None
    except (KeyError, TypeError):
        raise TropismError(f"{file} does not hold groups: name a stage that makes groups, or its folder") from None
    except (pa.ArrowException, OSError) as error:
        raise TropismError(f"{file} is damaged or not a Parquet file ({error}): delete it and run again") from None
