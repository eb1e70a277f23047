"""The format `text`."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tropism.formats.text import Text
from tropism.types import Completion, Group

DATA = Path(__file__).parents[3] / "shared" / "data" / "text"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not there")


def texts(source: Text) -> list[str]:
    return [group.completions[0].text for group in source.groups()]


def test_a_document_is_a_completion_without_a_prompt(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"title": "t", "body": " kept as it is\\n"}\n')
    assert list(Text(str(file), columns={"text": "body"}).groups()) == [
        Group(
            id="x.jsonl:1",
            prompt=(),
            completions=(Completion(" kept as it is\n"),),
            meta={"source": "x.jsonl"},
        )
    ]


@pytest.mark.parametrize(
    ("content", "separator", "expected"),
    [
        ("a\nb\n\nc\n", "", ["a\nb\n\nc\n"]),
        ("a\nb\n\nc\n", "\n\n", ["a\nb", "c"]),
        ("a\nb\n\nc\n", "\n", ["a", "b", "c"]),
        ("\n\n\na\n\n\n\n\nb\n\n", "\n\n", ["a", "b"]),
        ("a<|end|>b\n<|end|><|end|> c", "<|end|>", ["a", "b", " c"]),
        ("a\n--\n--\nb", "\n--\n", ["a", "--\nb"]),
        ("no separator here", "###", ["no separator here"]),
    ],
)
def test_separator(tmp_path: Path, content: str, separator: str, expected: list[str]) -> None:
    file = tmp_path / "x.txt"
    file.write_text(content)
    assert texts(Text(str(file), separator=separator)) == expected
    assert [g.id for g in Text(str(file), separator=separator).groups()] == [
        f"x.txt:{i + 1}" for i in range(len(expected))
    ]


def test_separator_and_columns_in_one_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    (tmp_path / "b.jsonl").write_text('{"body": "three\\n\\nstill three"}\n')
    source = Text(str(tmp_path / "*"), columns={"text": "body"}, separator="\n\n")
    assert texts(source) == ["one", "two", "three\n\nstill three"]


@needs_data
def test_real_files() -> None:
    with gzip.open(DATA / "wiki.txt.gz", "rt", encoding="utf-8") as file:
        wiki = file.read()
    assert texts(Text(str(DATA / "wiki.txt.gz"))) == [wiki]
    assert texts(Text(str(DATA / "wiki.txt.gz"), separator="\n")) == [line for line in wiki.split("\n") if line]
    with gzip.open(DATA / "c4.jsonl.gz", "rt", encoding="utf-8") as file:
        c4 = [json.loads(line)["text"] for line in file]
    assert len(c4) == 300
    assert texts(Text(str(DATA / "c4.jsonl.gz"))) == c4
    speeches = texts(Text(str(DATA / "shakespeare.txt.gz"), separator="\n\n"))
    assert speeches[0] == "First Citizen:\nBefore we proceed any further, hear me speak."
    assert len(speeches) == 7222
