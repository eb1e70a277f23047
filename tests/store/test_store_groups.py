"""Groups as Parquet: what is written comes back, and others can read it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tropism.errors import TropismError
from tropism.store.groups import GROUPS_FILE, read_groups, write_groups
from tropism.types import Completion, Group, Judgment, Message

FULL = Group(
    id="a/1",
    prompt=(Message("system", "Пиши по-русски"), Message("user", "日本語 🙂\n\x00 end")),
    completions=(
        Completion("ja", (1, 2, 70_000), (True, False, True), (-0.1, 0.0, -2.5e-9), "stop", "f00@3"),
        Completion("", (), (), (), "error"),
        Completion("только текст", finish_reason="length"),
    ),
    judgments=(
        Judgment("annotator@1", (1.0, None, -3.25), "ordinal", "says: «да»", (2, 0, 1)),
        Judgment("truth", (None, None, None)),
    ),
    target="Ziel",
    meta={"split": "test", "n": 3, "tags": ["é", None], "deep": {"x": 1.5}},
)
BARE = Group("b", ())


def test_round_trip(tmp_path: Path) -> None:
    write_groups([FULL, BARE], tmp_path / GROUPS_FILE)
    assert list(read_groups(tmp_path)) == [FULL, BARE]
    assert list(read_groups(tmp_path / GROUPS_FILE)) == [FULL, BARE]
    assert list(read_groups(str(tmp_path))) == [FULL, BARE]


def test_an_abstention_is_a_null_and_not_a_zero(tmp_path: Path) -> None:
    write_groups([FULL], tmp_path / "g.parquet")
    row = pq.read_table(tmp_path / "g.parquet").to_pylist()[0]
    assert [j["scores"] for j in row["judgments"]] == [[1.0, None, -3.25], [None, None, None]]
    assert row["prompt"][1] == {"role": "user", "content": "日本語 🙂\n\x00 end"}
    assert json.loads(row["meta"])["tags"] == ["é", None]


def test_no_groups_are_a_file_too(tmp_path: Path) -> None:
    write_groups([], tmp_path / GROUPS_FILE)
    assert list(read_groups(tmp_path)) == []


def test_the_same_groups_are_the_same_bytes(tmp_path: Path) -> None:
    write_groups([FULL, BARE], tmp_path / "one")
    write_groups(iter((FULL, BARE)), tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_logprobs_and_scores_come_back_bit_for_bit(tmp_path: Path) -> None:
    exact = (-1 / 3, -5e-324, -1.7976931348623157e308)
    group = Group("a", (), (Completion("x", (1, 2, 3), None, exact),), (Judgment("j", exact),))
    write_groups([group], tmp_path / "g")
    assert next(read_groups(tmp_path / "g")) == group


def test_what_is_missing_torn_or_other_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TropismError, match="there are no groups at .*groups.parquet: name a stage that makes groups"):
        list(read_groups(tmp_path))
    with pytest.raises(TropismError, match="there are no groups at .*nowhere"):
        list(read_groups(tmp_path / "nowhere"))
    write_groups([FULL] * 100, tmp_path / "g.parquet")
    whole = (tmp_path / "g.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TropismError, match=r"cut.parquet is damaged or not a Parquet file"):
        list(read_groups(tmp_path / "cut.parquet"))
    place = whole.index(b"\x28\xb5\x2f\xfd") + 8  # inside the first zstd frame
    (tmp_path / "bad.parquet").write_bytes(whole[:place] + b"\xff" * 8 + whole[place + 8 :])
    with pytest.raises(TropismError, match=r"bad.parquet is damaged or not a Parquet file"):
        list(read_groups(tmp_path / "bad.parquet"))
    pq.write_table(pq.read_table(tmp_path / "g.parquet").select(["target"]), tmp_path / "other.parquet")
    with pytest.raises(TropismError, match=r"other.parquet does not hold groups: name a stage that makes groups"):
        list(read_groups(tmp_path / "other.parquet"))
