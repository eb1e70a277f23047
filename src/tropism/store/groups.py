"""Groups as Parquet files: any program that reads Parquet can read the completions and judgments."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tropism.errors import TropismError
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


def write_groups(groups: Iterable[Group], path: Path) -> None:
    """One Parquet file."""
    rows = [{**to_json(g), "meta": json.dumps(to_json(g.meta), ensure_ascii=False)} for g in groups]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="zstd")


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
