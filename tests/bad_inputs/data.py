"""Data files that are refused: (name, format, file, content, what is said)."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Case = tuple[str, str, str, bytes, str]
GOOD: dict[str, dict[str, Any]] = {
    "text": {"text": "some words"},
    "chat": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "prompts": {"prompt": "a"},
    "pairs": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "ranked": {"prompt": "a", "answers": [{"answer": "b", "rank": 1}, {"answer": "c", "rank": 2}]},
    "thumbs": {"prompt": "a", "completion": "b", "label": True},
}


def lines(*records: Any) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def parquet(*records: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(records)), sink)
    return sink.getvalue()


def _files(kind: str) -> Iterator[Case]:
    """What is wrong with a file, whatever it holds."""
    good = GOOD[kind]
    whole = lines(*[good] * 3)
    rows = parquet(*[good] * 50)
    for name, file, content, says in (
        ("empty", "d.jsonl", b"", "is empty"),
        ("only blank lines", "d.jsonl", b"\n\n  \n", ""),
        ("an empty list", "d.json", b"[]", "is empty"),
        ("an empty gzip", "d.jsonl.gz", gzip.compress(b""), "is empty"),
        ("cut jsonl", "d.jsonl", whole[:-9], "in its last line, 3"),
        ("cut gzip", "d.jsonl.gz", gzip.compress(whole * 40)[:-9], "cut short or damaged"),
        ("no gzip", "d.jsonl.gz", whole, ""),
        ("cut parquet", "d.parquet", rows[: len(rows) // 2], "cut short or damaged"),
        ("no parquet", "d.parquet", whole, "cut short or damaged"),
        ("parquet without rows", "d.parquet", parquet(good)[:4] + parquet(good)[-4:], ""),
        ("cut list", "d.json", b"[" + whole[: len(whole) // 3], ""),
        ("not UTF-8", "d.jsonl", whole + b'{"text": "\xff\xfe"}\n', "line 4"),
        ("UTF-16", "d.jsonl", whole.decode().encode("utf-16"), "line 1"),
        ("zero bytes", "d.jsonl", b"\0" * 100, "in its last line, 1"),
        ("a list in a line", "d.jsonl", whole + b"[1, 2]\n", "line 4"),
        ("a number in a line", "d.jsonl", b"3\n" + whole, "line 1"),
        ("a null in a line", "d.jsonl", b"null\n" + whole, "line 1"),
        ("a word in a line", "d.jsonl", b"hello\n" + whole, "line 1"),
        ("an empty record", "d.jsonl", whole + b"{}\n", "line 4"),
        ("nested without end", "d.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", "line 1"),
        ("a picture", "d.png", b"\x89PNG", "is not a"),
        ("a zip", "d.zip", b"PK", "is not a"),
    ):
        yield f"{kind}: {name}", kind, file, content, says


RECORDS: list[tuple[str, str, dict[str, Any], str]] = [
    ("text a number", "text", {"text": 3}, "text"),
    ("text empty", "text", {"text": ""}, "text"),
    ("text null", "text", {"text": None}, "text"),
    ("text elsewhere", "text", {"body": "x"}, "text"),
    ("text a list", "text", {"text": ["x"]}, "text"),
    ("no turns", "chat", {"messages": []}, "messages"),
    ("turns a word", "chat", {"messages": "hi"}, "messages"),
    ("a turn a word", "chat", {"messages": ["hi"]}, "messages[0]"),
    ("a turn without words", "chat", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ("a turn without role", "chat", {"messages": [{"content": "a"}]}, "messages[0]"),
    ("a role unknown", "chat", {"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
    ("a role a number", "chat", {"messages": [{"role": 3, "content": "a"}]}, "messages[0].role"),
    ("content a number", "chat", {"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ("ends with a user", "chat", {"messages": [{"role": "user", "content": "a"}]}, "ends with a user turn"),
    ("only an answer", "chat", {"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
    ("no shape", "chat", {"question": "a", "reply": "b"}, ""),
    ("alpaca without output", "chat", {"instruction": "a"}, "output"),
    ("alpaca with a list", "chat", {"instruction": ["a"], "output": "b"}, "instruction"),
    ("sharegpt a word", "chat", {"conversations": "x"}, "conversations"),
    ("sharegpt nobody", "chat", {"conversations": [{"from": "nobody", "value": "x"}]}, "conversations[0]"),
    ("prompt a number", "prompts", {"prompt": 3}, "prompt"),
    ("prompt empty", "prompts", {"prompt": ""}, "prompt"),
    ("prompt empty turns", "prompts", {"prompt": []}, "prompt"),
    ("target a list", "prompts", {"prompt": "a", "target": ["b"]}, "target"),
    ("id a list", "prompts", {"prompt": "a", "id": ["x"]}, "id"),
    ("pair without chosen", "pairs", {"prompt": "a", "rejected": "c"}, "chosen"),
    ("pair without rejected", "pairs", {"prompt": "a", "chosen": "c"}, "rejected"),
    ("pair alike", "pairs", {"prompt": "a", "chosen": "c", "rejected": "c"}, "equals field 'rejected'"),
    ("pair of numbers", "pairs", {"prompt": "a", "chosen": 1, "rejected": 0}, "chosen"),
    ("pair of nothing", "pairs", {"prompt": "a", "chosen": "", "rejected": ""}, "chosen"),
    ("pair without prompt", "pairs", {"chosen": "a", "rejected": "b"}, ""),
    ("no answers", "ranked", {"prompt": "a"}, "answers"),
    ("one answer", "ranked", {"prompt": "a", "answers": [{"answer": "b", "rank": 1}]}, "answers"),
    ("answers a word", "ranked", {"prompt": "a", "answers": "b"}, "answers"),
    ("answers words", "ranked", {"prompt": "a", "answers": ["b", "c"]}, "answers[0]"),
    ("rank a word", "ranked", {"prompt": "a", "answers": [{"answer": "b", "rank": "first"}] * 2}, "rank"),
    ("no ranks", "ranked", {"prompt": "a", "answers": [{"answer": "b"}, {"answer": "c"}]}, "rank"),
    ("no label", "thumbs", {"prompt": "a", "completion": "b"}, "label"),
    ("label a number", "thumbs", {"prompt": "a", "completion": "b", "label": 1}, "label"),
    ("label a word", "thumbs", {"prompt": "a", "completion": "b", "label": "good"}, "label"),
    ("no completion", "thumbs", {"prompt": "a", "label": True}, ""),
    ("completion a number", "thumbs", {"prompt": "a", "completion": 3, "label": True}, "completion"),
]
DATA: list[Case] = [
    *(case for kind in ("text", "chat", "pairs", "ranked") for case in _files(kind)),
    *(
        (f"record: {name}", kind, "d.jsonl", lines(GOOD[kind], record), says or "line 2")
        for name, kind, record, says in RECORDS
    ),
]
