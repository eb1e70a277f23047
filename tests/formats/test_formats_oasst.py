"""Message trees: worked by hand, as rows in any order and as whole trees."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tropism.errors import TropismError
from tropism.formats.oasst import Oasst
from tropism.types import Group

#  q ── a (rank 1) ── q2 ── d (rank 0), e (rank 1), f (no rank)
#   ├── b (rank 0) ── q3 ── g
#   │             └── q4 (no answer)
#   └── c (deleted) ── q5 ── h
ROWS: list[dict[str, Any]] = [
    {"message_id": "q", "parent_id": None, "role": "prompter"},
    {"message_id": "a", "parent_id": "q", "role": "assistant", "rank": 1},
    {"message_id": "b", "parent_id": "q", "role": "assistant", "rank": 0.0},
    {"message_id": "c", "parent_id": "q", "role": "assistant", "rank": 2, "deleted": True},
    {"message_id": "q2", "parent_id": "a", "role": "prompter", "rank": None},
    {"message_id": "d", "parent_id": "q2", "role": "assistant", "rank": 0},
    {"message_id": "e", "parent_id": "q2", "role": "assistant", "rank": 1},
    {"message_id": "f", "parent_id": "q2", "role": "assistant"},
    {"message_id": "q3", "parent_id": "b", "role": "prompter"},
    {"message_id": "g", "parent_id": "q3", "role": "assistant"},
    {"message_id": "q4", "parent_id": "b", "role": "prompter"},
    {"message_id": "q5", "parent_id": "c", "role": "prompter"},
    {"message_id": "h", "parent_id": "q5", "role": "assistant"},
    {"message_id": "x", "parent_id": None, "role": "prompter", "lang": "de"},
    {"message_id": "y", "parent_id": "x", "role": "assistant", "lang": "de"},
]
for row in ROWS:
    row["text"] = f"text {row['message_id']}"
    row.setdefault("lang", "en")


def nested(id: str) -> dict[str, Any]:
    row = next(row for row in ROWS if row["message_id"] == id)
    return row | {"replies": [nested(r["message_id"]) for r in ROWS if r["parent_id"] == id]}


SHUFFLED = random.Random(1).sample(ROWS, len(ROWS))
TREES = [{"message_tree_id": id, "tree_state": "ready_for_export", "prompt": nested(id)} for id in ("q", "x")]


def read(tmp_path: Path, records: list[dict[str, Any]], **keys: Any) -> list[Group]:
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return list(Oasst(str(tmp_path / "x.jsonl"), **keys).groups())


def said(group: Group) -> list[tuple[str, str]]:
    return [(m.role, m.content.removeprefix("text ")) for m in group.prompt]


@pytest.mark.parametrize("records", [ROWS, SHUFFLED, TREES], ids=["rows", "shuffled", "trees"])
def test_ranked(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    groups = {g.id: g for g in read(tmp_path, records)}
    assert set(groups) == {"q", "q2"}
    first, second = groups["q"], groups["q2"]
    assert said(first) == [("user", "q")]
    assert [c.text for c in first.completions] == ["text b", "text a"] and first.judgments[0].scores == (0.0, -1.0)
    assert said(second) == [("user", "q"), ("assistant", "a"), ("user", "q2")]
    assert [c.text for c in second.completions] == ["text d", "text e", "text f"]
    assert second.judgments[0].scores == (0.0, -1.0, None) and second.judgments[0].scale == "ordinal"
    assert first.meta == {"source": "x.jsonl"}


@pytest.mark.parametrize("records", [ROWS, SHUFFLED, TREES], ids=["rows", "shuffled", "trees"])
def test_conversations(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    groups = {g.id: g for g in read(tmp_path, records, part="conversations")}
    assert {id: (said(g), g.target) for id, g in groups.items()} == {
        "g": ([("user", "q"), ("assistant", "b"), ("user", "q3")], "text g"),
        "y": ([("user", "x")], "text y"),
    }
    assert [g.id for g in read(tmp_path, records, part="conversations", lang="de")] == ["y"]


def test_broken_messages_are_named_or_left_out(tmp_path: Path) -> None:
    for bad, says in (
        ({"message_id": "z", "parent_id": "nobody"}, "x.jsonl line 16: field 'parent_id' = 'nobody' is no message"),
        ({"message_id": "z", "role": "user"}, "x.jsonl line 16: field 'role' = 'user' is not a known role"),
        ({"message_id": "z", "text": None}, "x.jsonl line 16: field 'text' is missing"),
        ({"message_id": "q"}, "x.jsonl line 16: field 'message_id' = 'q' was used before"),
        ({"message_id": "z", "rank": "first"}, "x.jsonl line 16: field 'rank' is a text, not a number"),
    ):
        rows = [*ROWS, {"parent_id": "a", "role": "prompter", "text": "t"} | bad]
        with pytest.raises(TropismError) as caught:
            read(tmp_path, rows)
        assert says in str(caught.value)
        groups = Oasst(str(tmp_path / "x.jsonl"), on_error="skip").groups()
        assert len(list(groups)) == 2 and len(groups.skipped) == 1
