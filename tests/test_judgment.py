"""What a judge may say: NaN is no score wherever a judgment comes from, infinity is refused by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tropism.asking.judge import asked
from tropism.errors import TropismError
from tropism.store.groups import GROUPS_FILE, SCHEMA, read_groups
from tropism.store.plain import group_from_json, to_json
from tropism.tensors.encode import ranks
from tropism.types import Completion, Group, Judgment, Message

NAN, INF = float("nan"), float("inf")
GROUP = Group("g", (Message("user", "?"),), (Completion("a"), Completion("b"), Completion("c")))


def test_nan_is_none_from_the_moment_it_is_said() -> None:
    said = Judgment("j", (NAN, 1.0, None))
    assert said.scores == (None, 1.0, None) and ranks(said) == (0, 1, 0)


def test_nan_is_none_when_it_is_read(tmp_path: Path) -> None:
    """From JSON as Python writes it, and from a Parquet file that somebody else wrote."""
    row = to_json(GROUP) | {"judgments": [{"judge": "j", "scores": [NAN, 2.0, NAN]}]}
    assert group_from_json(json.dumps(row)).judgments[0].scores == (None, 2.0, None)
    schema = SCHEMA
    row["judgments"][0] |= {"scale": "interval", "rationale": "", "shown": None, "tokens": 0}
    pq.write_table(pa.Table.from_pylist([{**row, "meta": "{}"}], schema=schema), tmp_path / GROUPS_FILE)
    (read,) = read_groups(tmp_path)
    assert read.judgments[0].scores == (None, 2.0, None)


class Infinite:
    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        return [Judgment("boundless@2", (0.0, 1.0, -INF)) for _ in groups]


def test_an_infinite_score_is_refused_by_name() -> None:
    said = r"^the judge boundless@2 gave -inf to completion 3 of the group g: fix it, or return None"
    with pytest.raises(TropismError, match=said):
        asked(Infinite(), [GROUP])
    stored = Group("g", GROUP.prompt, GROUP.completions, tuple(Infinite().judge([GROUP])))
    with pytest.raises(TropismError, match=said):
        stored.judged("boundless")
