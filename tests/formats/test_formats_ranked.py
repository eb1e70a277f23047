"""The format `ranked`."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tropism.errors import TropismError
from tropism.formats.ranked import Ranked
from tropism.types import Completion, Group, Judgment, Message


def read(tmp_path: Path, *records: object) -> list[Group]:
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return list(Ranked(str(file)).groups())


A, B = {"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}


def test_nectar(tmp_path: Path) -> None:
    record = {
        "prompt": "\n\nHuman: Hi\n\nAssistant: Yo\n\nHuman: Sum 1 and 1.\n\nAssistant: ",
        "answers": [
            {"answer": "3", "model": "m1", "rank": 3.0},
            {"answer": "2", "model": "m2", "rank": 1.0},
            {"answer": "two", "rank": 1.0},
            {"answer": "?", "rank": None},
            {"answer": "!"},
        ],
        "turns": 2,
        "good_natured": True,
    }
    assert read(tmp_path, record) == [
        Group(
            id="x.jsonl:1",
            prompt=(Message("user", "Hi"), Message("assistant", "Yo"), Message("user", "Sum 1 and 1.")),
            completions=(
                Completion("3", policy="m1"),
                Completion("2", policy="m2"),
                Completion("two"),
                Completion("?"),
                Completion("!"),
            ),
            judgments=(Judgment(judge="ranked", scores=(-3.0, -1.0, -1.0, None, None), scale="ordinal"),),
            meta={"source": "x.jsonl"},
        )
    ]


@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": "q"},
        {"prompt": [{"role": "user", "content": "q"}]},
        {"messages": [{"role": "user", "content": "q"}]},
        {"conversations": [{"from": "human", "value": "q"}]},
        {"instruction": "q", "input": ""},
    ],
)
def test_prompt_shapes(tmp_path: Path, asked: dict[str, object]) -> None:
    (group,) = read(tmp_path, {**asked, "answers": [A, B]})
    assert group.prompt == (Message("user", "q"),)


def test_parquet_with_missing_ranks(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    rows = [{"prompt": "q", "answers": [A, {"answer": "c", "rank": None}, B]}]
    pq.write_table(pa.Table.from_pylist(rows), file)
    (group,) = Ranked(str(file)).groups()
    assert group.judgments[0].scores == (-1.0, None, -2.0)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"prompt": "q"}, "field 'answers' is missing"),
        ({"prompt": "q", "answers": "a"}, "field 'answers' is a text, not a list"),
        ({"prompt": "q", "answers": []}, "field 'answers' has fewer than two different answers"),
        ({"prompt": "q", "answers": [A]}, "field 'answers' has fewer than two different answers"),
        (
            {"prompt": "q", "answers": [A, {"answer": "a ", "rank": 2}]},
            "field 'answers' has fewer than two different answers",
        ),
        ({"prompt": "q", "answers": [A, {"answer": "b"}]}, "field 'answers' has fewer than two ranks; add them or"),
        ({"prompt": "q", "answers": [A, "b"]}, "field 'answers[1]' is a text, not an object"),
        ({"prompt": "q", "answers": [A, {"rank": 2}]}, "field 'answers[1].answer' is missing"),
        ({"prompt": "q", "answers": [A, {"answer": "", "rank": 2}]}, "field 'answers[1].answer' is empty"),
        ({"prompt": "q", "answers": [A, {**B, "rank": "2"}]}, "field 'answers[1].rank' = '2' is not a finite number"),
        ({"prompt": "q", "answers": [A, {**B, "rank": True}]}, "field 'answers[1].rank' = True is not a finite"),
        (
            {"prompt": "q", "answers": [A, {**B, "rank": float("nan")}]},
            "field 'answers[1].rank' = nan is not a finite number",
        ),
        ({"prompt": "q", "answers": [A, {**B, "model": 7}]}, "field 'answers[1].model' is a number, not a text"),
        ({"answers": [A, B]}, "field 'prompt' is missing"),
        ({"prompt": "", "answers": [A, B]}, "field 'prompt' is empty"),
    ],
)  # fmt: skip
def test_broken_rankings(tmp_path: Path, record: object, says: str) -> None:
    with pytest.raises(TropismError) as caught:
        read(tmp_path, {"prompt": "q", "answers": [A, B]}, record)
    assert str(caught.value).startswith(f"{tmp_path}/x.jsonl line 2: {says}")
    assert str(caught.value).endswith(' or set on_error = "skip"')
