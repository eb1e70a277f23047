"""The format `prompts`."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tropism.errors import TropismError
from tropism.formats.prompts import Prompts
from tropism.protocols import Format
from tropism.recipe.build import build
from tropism.types import Group, Message

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not there")

HI, YO = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}


def read(tmp_path: Path, *records: object) -> list[Group]:
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return list(Prompts(str(file)).groups())


def test_inline() -> None:
    source = build(Format, {"kind": "prompts", "prompts": ["one", " two "]}, "prompts")
    assert list(source.groups()) == [
        Group(id="prompts:1", prompt=(Message("user", "one"),), meta={"source": "recipe"}),
        Group(id="prompts:2", prompt=(Message("user", " two "),), meta={"source": "recipe"}),
    ]
    assert source.files() == []
    assert [g.id for g in Prompts(prompts=("a", "b", "c"), limit=2).groups()] == ["prompts:1", "prompts:2"]
    with pytest.raises(TropismError, match=r"^prompts\[1\]: field 'prompt' is empty; fill it"):
        list(Prompts(prompts=("a", "")).groups())


@pytest.mark.parametrize(
    "keys", [{}, {"path": "x", "prompts": ("a",)}, {"hub": "x", "prompts": ("a",)}, {"path": "x", "hub": "y"}]
)
def test_exactly_one_place(keys: dict[str, object]) -> None:
    with pytest.raises(TropismError, match="give one of the keys path and hub and prompts"):
        Prompts(**keys)  # type: ignore[arg-type]
    with pytest.raises(TropismError, match="subset and split belong to hub"):
        Prompts(prompts=("a",), split="test")


def test_a_txt_holds_one_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_bytes(b"one\r\n\n  two\nthree")
    groups = list(Prompts(str(file)).groups())
    assert [(g.id, g.prompt[0].content) for g in groups] == [
        ("x.txt:1", "one"),
        ("x.txt:3", "  two"),
        ("x.txt:4", "three"),
    ]


@pytest.mark.parametrize(
    ("record", "prompt", "target"),
    [
        ({"prompt": "hi"}, ["hi"], None),
        ({"prompt": "hi", "target": "yo"}, ["hi"], "yo"),
        ({"prompt": [HI, YO, HI]}, ["hi", "yo", "hi"], None),
        ({"prompt": "hi", "messages": [{"role": "user", "content": "other"}, YO]}, ["hi"], None),
        ({"messages": [HI]}, ["hi"], None),
        ({"messages": [HI, YO]}, ["hi"], "yo"),
        ({"messages": [HI, YO], "target": "hey"}, ["hi"], "hey"),
        ({"messages": [{"role": "text", "content": "1, 2,"}]}, ["1, 2,"], None),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]}, ["hi"], "yo"),
        ({"instruction": "hi", "input": "you", "output": "yo"}, ["hi\nyou"], "yo"),
        ({"instruction": "hi", "output": ""}, ["hi"], None),
    ],
)
def test_records(tmp_path: Path, record: object, prompt: list[str], target: str | None) -> None:
    (group,) = read(tmp_path, record)
    assert ([m.content for m in group.prompt], group.target) == (prompt, target)
    assert (group.completions, group.judgments) == ((), ())


def test_ids(tmp_path: Path) -> None:
    groups = read(tmp_path, {"prompt": "a", "id": "first"}, {"prompt": "b"}, {"prompt": "c", "id": 0})
    assert [g.id for g in groups] == ["first", "x.jsonl:2", "0"]
    with pytest.raises(TropismError, match=r"x\.jsonl line 2: field 'id' = '7' was used before; make it unique or"):
        read(tmp_path, {"prompt": "a", "id": 7}, {"prompt": "b", "id": "7"})


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"question": "a"}, "field 'prompt' is missing; add it"),
        ({"prompt": " "}, "field 'prompt' is empty"),
        ({"prompt": 3}, "field 'prompt' is a number, not a text"),
        ({"prompt": [HI, YO]}, "the prompt in field 'prompt' has no turn to answer at its end"),
        ({"prompt": "a", "target": 42}, "field 'target' is a number, not a text"),
        ({"prompt": "a", "target": ""}, "field 'target' is empty"),
        ({"prompt": "a", "id": True}, "field 'id' is of the type bool, not a text"),
        ({"prompt": "a", "id": ""}, "field 'id' is empty"),
        ({"messages": [YO]}, "the prompt in field 'messages' has no turn to answer at its end"),
    ],
)
def test_broken_prompts(tmp_path: Path, record: object, says: str) -> None:
    with pytest.raises(TropismError) as caught:
        read(tmp_path, {"prompt": "a"}, record)
    assert str(caught.value).startswith(f"{tmp_path}/x.jsonl line 2: {says}")
    assert str(caught.value).endswith(' or set on_error = "skip"')


@needs_data
def test_prompts_of_real_conversations() -> None:
    file = DATA / "chat" / "alpaca_en.json.gz"
    with gzip.open(file) as opened:
        rows = json.load(opened)
    groups = list(Prompts(str(file)).groups())
    assert [g.target for g in groups] == [row["output"] for row in rows]
    assert not any(g.completions for g in groups)
    pairs = list(Prompts(str(DATA / "preferences" / "dpo_en.json.gz"), limit=50).groups())
    assert len(pairs) == 50
    assert {(g.prompt[-1].role, g.target) for g in pairs} == {("user", None)}
