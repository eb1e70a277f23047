"""Fields under other names: `columns` of every format of records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tropism.errors import TropismError
from tropism.formats.chat import Chat
from tropism.formats.oasst import Oasst
from tropism.formats.pairs import Pairs
from tropism.formats.prompts import Prompts
from tropism.formats.ranked import Ranked
from tropism.formats.text import Text
from tropism.formats.thumbs import Thumbs
from tropism.protocols import Format
from tropism.recipe.build import build
from tropism.types import Group

ANSWERS = [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]
HI, YO = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}


def read(kind: Any, tmp_path: Path, record: object, **keys: Any) -> Group:
    (tmp_path / "x.jsonl").write_text(json.dumps(record) + "\n")
    (group,) = kind(str(tmp_path / "x.jsonl"), **keys).groups()
    return group


@pytest.mark.parametrize(
    ("kind", "plain", "renamed", "columns"),
    [
        (Text, {"text": "a"}, {"body": "a"}, {"text": "body"}),
        (Chat, {"messages": [HI, YO]}, {"dialogue": [HI, YO]}, {"messages": "dialogue"}),
        (
            Chat,
            {"prompt": "q", "completion": "a"},
            {"question": "q", "answer": "a"},
            {"prompt": "question", "completion": "answer"},
        ),
        (
            Chat,
            {"instruction": "q", "output": "a"},
            {"prompt": "q", "text": "a"},
            {"instruction": "prompt", "output": "text"},
        ),
        (
            Pairs,
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            {"question": "q", "good": "a", "rejected": "b"},
            {"prompt": "question", "chosen": "good"},
        ),
        (
            Pairs,
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            {"prompt": "q", "chosen": "b", "rejected": "a"},
            {"chosen": "rejected", "rejected": "chosen"},
        ),
        (Ranked, {"prompt": "q", "answers": ANSWERS}, {"prompt": "q", "replies": ANSWERS}, {"answers": "replies"}),
        (
            Thumbs,
            {"prompt": "q", "completion": "a", "label": True},
            {"prompt": "q", "completion": "a", "liked": True},
            {"label": "liked"},
        ),
        (
            Prompts,
            {"prompt": "q", "target": "a"},
            {"question": "q", "answer": "a"},
            {"prompt": "question", "target": "answer"},
        ),
    ],
)
def test_renamed_is_as_if_it_had_the_usual_names(
    kind: Any, plain: object, renamed: object, columns: dict[str, str], tmp_path: Path
) -> None:
    assert read(kind, tmp_path, renamed, columns=columns) == read(kind, tmp_path, plain)


def test_a_column_that_is_not_there_is_a_broken_record(tmp_path: Path) -> None:
    with pytest.raises(TropismError) as caught:
        read(Pairs, tmp_path, {"prompt": "q", "chosen": "a", "rejected": "b"}, columns={"chosen": "good"})
    assert str(caught.value).endswith(
        "x.jsonl line 1: has no field 'good' (its fields: 'prompt', 'chosen', 'rejected'); fix columns.chosen or set "
        'on_error = "skip"'
    )
    records = [{"q": "one", "s": None}, {"q": "two", "s": "be brief"}, {"s": "x"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    columns = {"prompt": "q", "system": "s"}
    groups = Prompts(str(tmp_path / "x.jsonl"), on_error="skip", columns=columns).groups()
    assert [[m.content for m in g.prompt] for g in groups] == [["one"], ["be brief", "two"]]
    assert len(groups.skipped) == 1


def test_a_name_that_the_format_does_not_read_is_refused() -> None:
    entry = {"kind": "pairs", "path": "x", "columns": {"choosen": "good"}}
    with pytest.raises(
        TropismError, match="data: columns.choosen is not a field that this format reads: use one of mess"
    ):
        build(Format, entry, "data")
    with pytest.raises(TropismError, match="none, as this format knows its shape"):
        Oasst("x", columns={"text": "body"})
    good = build(Format, {"kind": "pairs", "path": "x", "columns": {"chosen": "good"}}, "data")
    assert good == Pairs("x", columns={"chosen": "good"})


def test_lines_of_a_text_need_no_columns(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("one\ntwo\n")
    (tmp_path / "y.jsonl").write_text('{"q": "three"}\n')
    groups = Prompts(str(tmp_path / "*"), columns={"prompt": "q"}).groups()
    assert [g.prompt[0].content for g in groups] == ["one", "two", "three"]
